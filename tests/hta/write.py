"""Writes traces of several scenarios, and what HolisticTraceAnalysis has to find in them. Usage: write.py FOLDER."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from sim.report.trace import write_traces
from sim.results.busy import busy_s, communication
from sim.simulation import Simulation, load, run

SMALL = "tests/small.yaml"
CASES: dict[str, tuple[str, list[str]]] = {
    "tp2-pp2-zero1": (SMALL, ["layout.tp=2", "layout.pp=2", "layout.zero=1", "layout.sequence_parallel=true"]),
    "cp2-zero3": (SMALL, ["layout.cp=2", "layout.zero=3"]),
    "zb-v": (SMALL, ["layout.pp=2", "layout.vpp=2", "layout.schedule=zb_v", "layout.zero=0"]),
    "slow-gpu": (SMALL, ["layout.tp=2", "layout.pp=2", "conditions.gpus={3: 0.5}"]),
    "llama2-7b": ("llama2-7b_8xa100_zero3", []),
    "llama2-70b": ("llama2-70b_128xh100_tp8-pp2-dp8", ["training.global_batch=128"]),
}


def expected(simulation: Simulation, index: int) -> dict[str, float]:
    """Seconds of a simulated rank as the simulator's own results have them: from its first to its last work on the GPU,
    compute, communication with no compute beside it, neither, and the share of communication that compute covers."""
    timeline = simulation.timeline
    program = timeline.program
    rank = program.ranks[index]
    slots = np.concatenate([np.arange(rank.first, rank.end), np.flatnonzero(program.receiver == index)])
    span_s = float(timeline.end_s[slots].max() - timeline.start_s[slots].min())
    compute_s = sum(busy_s(timeline, index).values())
    both = communication(timeline, index)["all"]
    alone_s = both.running_s - both.overlapped_s
    return {
        "kernel_s": span_s,
        "compute_s": compute_s,
        "communication_s": alone_s,
        "idle_s": span_s - compute_s - alone_s,
        "overlap": both.overlapped_s / both.running_s,
    }


def main(folder: Path) -> None:
    """One folder of traces for each case, with `expected.json` beside it."""
    for name, (scenario, settings) in CASES.items():
        simulation = run(load(scenario, settings))
        write_traces(simulation, folder / name / "traces")
        ranks = simulation.timeline.program.ranks
        found = {str(rank.rank): expected(simulation, index) for index, rank in enumerate(ranks)}
        (folder / name / "expected.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
