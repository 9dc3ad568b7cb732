"""Long runs without a scenario, so that every time is given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from sim.longrun.plan import Plan, plan
from sim.spec.longrun import LongRunFile

DAY_S = 86400.0
Make = Callable[..., Plan]


def make_plan(**changes: Any) -> Plan:
    """A job on one node that fails once in `mtbf_s`; `changes` are fields of the file, or of the short forms below.

    mtbf_s, block_s, restart_s, every_steps: of a synchronous checkpoint and a restart without parts.
    """
    short = {"mtbf_s": 1000.0, "block_s": 5.0, "restart_s": 20.0, "every_steps": 100} | {
        key: changes.pop(key) for key in ("mtbf_s", "block_s", "restart_s", "every_steps") if key in changes
    }
    times = ("detect_s", "hang_detect_s", "silent_detect_s", "diagnose_s", "reschedule_s", "catch_up_s")
    fields: dict[str, Any] = {
        "name": "made",
        "phases": ({"name": "main", "step_time_s": 1.0, "tokens_per_step": 1e6, "steps": 10**9},),
        "gpus": 8,
        "gpus_per_node": 8,
        "failures": failures({"node": {"per_1000_days": 1000 * DAY_S / short["mtbf_s"], "transient_frac": 1.0}}),
        "checkpoint": {
            "mode": "sync",
            "every_steps": short["every_steps"],
            "persist_s": short["block_s"],
            "load_s": 0.0,
        },
        "recovery": dict.fromkeys(times, 0.0) | {"init_s": short["restart_s"]},
    }
    file = LongRunFile.model_validate(fields | changes)
    return plan(file, file.name)


def failures(components: dict[str, Any], **more: Any) -> dict[str, Any]:
    """An entry of the catalogue of failures."""
    sources = dict.fromkeys(("components", "repair", *(key for key in more if key != "repair_s")), "made up")
    return {"name": "made", "title": "made", "components": components, "repair_s": 100.0, "sources": sources} | more


@pytest.fixture
def entry() -> Callable[..., dict[str, Any]]:
    """`failures` as a fixture."""
    return failures


@pytest.fixture
def make() -> Make:
    """`make_plan` as a fixture."""
    return make_plan
