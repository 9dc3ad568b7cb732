"""Plays flows in SimGrid, as a process of its own: an engine of SimGrid lives once in a process.

Standard input: a JSON list of platforms, {"capacity": bytes/s of each link, "flows": [{"links", "limit", "nbytes"}]}.
A flow crosses `links`, one several times where it loads it by as many bytes for each byte of its own, and never exceeds
`limit`, bytes/s; `nbytes` is an integer, as SimGrid has it.
Standard output: for each platform, when each flow ends, in seconds after it began to move.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from typing import Any

CONFIG = (
    "network/model:CM02",
    "network/TCP-gamma:0",
    "network/crosstraffic:0",
    "network/weight-S:0",
    "network/bandwidth-factor:1",
    "network/latency-factor:1",
    "precision/work-amount:1e-11",
    "precision/timing:1e-12",
)
"""Plain max-min: every correction factor of SimGrid's network models at one or off."""

LATENCY_S = 1.0
"""CM02 weighs flows by their latency, so that all have the same. It is paid before a flow moves."""

Platform = dict[str, Any]


def sending(simgrid: Any, pairs: list[tuple[Any, Any, float]], ends: list[float]) -> Callable[[], None]:
    """An actor that starts all flows of a platform at once and notes when each has ended."""

    def send() -> None:
        comms = [simgrid.Comm.sendto_init(source, target).set_payload_size(size) for source, target, size in pairs]
        for comm in comms:
            comm.start()
        for comm in comms:
            comm.wait()
            ends.append(comm.finish_time - LATENCY_S)

    return send


def add(simgrid: Any, root: Any, number: int, platform: Platform) -> list[float]:
    """A zone with the links of a platform; each flow goes between two hosts of its own, over a wire that limits it."""
    zone = root.add_netzone_full(f"zone{number}")
    links = [zone.add_link(f"link{number}-{one}", rate).seal() for one, rate in enumerate(platform["capacity"])]
    pairs = []
    for one, flow in enumerate(platform["flows"]):
        source, target = (zone.add_host(f"{end}{number}-{one}", 1.0).seal() for end in ("source", "target"))
        wire = zone.add_link(f"wire{number}-{one}", flow["limit"]).set_latency(LATENCY_S).seal()
        route = [simgrid.LinkInRoute(link) for link in (wire, *(links[link] for link in flow["links"]))]
        zone.add_route(source, target, route, False)
        pairs.append((source, target, flow["nbytes"]))
    zone.seal()
    ends: list[float] = []
    pairs[0][0].add_actor(f"actor{number}", sending(simgrid, pairs, ends))
    return ends


def main() -> None:
    """Play all platforms beside each other: none shares a link with another."""
    simgrid = importlib.import_module("simgrid")
    engine = simgrid.Engine(["judge", *(f"--cfg={item}" for item in CONFIG), "--log=root.thres:warning"])
    root = engine.netzone_root
    ends = [add(simgrid, root, number, platform) for number, platform in enumerate(json.load(sys.stdin))]
    root.seal()
    engine.run()
    json.dump(ends, sys.stdout)


if __name__ == "__main__":
    main()
