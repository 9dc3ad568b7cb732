"""Reads the traces with HolisticTraceAnalysis and compares its breakdown with ours. Usage: compare.py FOLDER.

It runs in an environment of its own (`make hta`), which has HolisticTraceAnalysis and not the simulator.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import warnings
from pathlib import Path

os.environ["HTA_DISABLE_NS_ROUNDING"] = "1"  # else it cuts every time to a microsecond, as long as a small kernel

from hta.trace_analysis import TraceAnalysis

TOLERANCE = 1e-3
US_BY_S = 1e6
COLUMNS = {
    "kernel_s": "kernel_time(us)",
    "compute_s": "compute_time(us)",
    "communication_s": "non_compute_time(us)",
    "idle_s": "idle_time(us)",
}


def differences(folder: Path) -> dict[str, float]:
    """The largest difference of each number over the ranks of a case: of times as a share of the time from first to
    last kernel, of the overlap as it is."""
    analysis = TraceAnalysis(trace_dir=str(folder / "traces"), include_last_profiler_step=True)
    ours = json.loads((folder / "expected.json").read_text(encoding="utf-8"))
    times = analysis.get_temporal_breakdown(visualize=False).set_index("rank")
    overlaps = analysis.get_comm_comp_overlap(visualize=False).set_index("rank")["comp_comm_overlap_pctg"]
    assert sorted(map(int, ours)) == sorted(times.index) == sorted(overlaps.index), "not the ranks that were written"
    worst = dict.fromkeys([*COLUMNS, "overlap"], 0.0)
    for rank, numbers in ours.items():
        for key, column in COLUMNS.items():
            gap_s = abs(times.loc[int(rank), column] / US_BY_S - numbers[key])
            worst[key] = max(worst[key], gap_s / numbers["kernel_s"])
        worst["overlap"] = max(worst["overlap"], abs(overlaps[int(rank)] / 100 - numbers["overlap"]))
    return worst


def main(folder: Path) -> int:
    """A line for each case; 1 where a number differs by more than the tolerance."""
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore", FutureWarning)
    failed = False
    cases = sorted(path.parent for path in folder.glob("*/expected.json"))
    assert cases, f"nothing to compare in {folder}"
    for case in cases:
        worst = differences(case)
        failed = failed or max(worst.values()) > TOLERANCE
        shown = ", ".join(f"{key.removesuffix('_s')} {100 * value:.4f} %" for key, value in worst.items())
        sys.stdout.write(f"{case.name}: {shown}\n")
    sys.stdout.write(f"tolerance {100 * TOLERANCE:g} %: {'exceeded' if failed else 'kept'}\n")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
