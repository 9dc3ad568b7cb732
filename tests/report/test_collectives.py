from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sim.calibrate.collective_validation import CollectiveValidation
from sim.report.collectives import draw_sweep, draw_validation, write_sweep, write_validation

SWEEP = pd.DataFrame(
    {
        "op": "all_reduce",
        "gpus": 16,
        "nodes": 2,
        "nbytes": [0, 2**20, 2**24, 2**30],
        "busbw_GBps": [0.0, 30.0, 200.0, 350.0],
        "algorithm": ["ring", "ring", "tree", "tree"],
        "protocol": ["ll", "ll128", "simple", "simple"],
        "measured_busbw_GBps": [np.nan, 28.0, np.nan, 360.0],
    }
)
CALLS = CollectiveValidation(
    pd.DataFrame(
        {
            "op": ["all_reduce", "all_gather", "all_gather"],
            "topology": ["dgx-h100", "dgx-a100", "dgx-h100"],
            "nbytes": [2**20] * 3,
            "time_s": [1e-4, 2e-4, 4e-4],
            "predicted_s": [1.1e-4, 2e-4, 4e-4],
        }
    ),
    pd.DataFrame(columns=["file", "line", "reason"]),
)


def test_a_sweep_has_a_line_for_each_way_to_run_and_points_where_measured() -> None:
    (axes,) = draw_sweep(SWEEP, "dgx-h100").axes
    _, labels = axes.get_legend_handles_labels()
    assert labels == ["ring, ll128", "tree, simple", "measured"]
    (points,) = axes.collections
    assert np.asarray(points.get_offsets()).tolist() == [[2**20, 28.0], [2**30, 360.0]]
    assert axes.get_title(loc="left") + axes.get_title() == "all_reduce on 16 GPUs, 2 nodes of dgx-h100"
    assert (axes.get_xscale(), axes.get_ylabel()) == ("log", "bus bandwidth, GB/s")


def test_one_size_is_drawn_too() -> None:
    (axes,) = draw_sweep(SWEEP.iloc[1:2], "dgx-h100").axes
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["1 MiB"]


def test_a_validation_has_a_panel_for_each_topology() -> None:
    panels = draw_validation(CALLS).axes
    titles = [axes.get_title(loc="left") + axes.get_title() for axes in panels]
    assert [title.split(":")[0] for title in titles] == ["dgx-a100", "dgx-h100"]
    assert titles[1].endswith("5.0 % off, sum +2.0 %")


def test_nothing_to_draw_is_a_page_without_panels() -> None:
    assert draw_validation(CollectiveValidation(CALLS.table.iloc[:0], CALLS.skipped)).axes == []


@pytest.mark.parametrize("kind", ["sweep", "validation"])
def test_the_same_numbers_give_the_same_bytes(kind: str, tmp_path: Path) -> None:
    pictures = []
    for name in ("one", "two"):
        folder = tmp_path / name
        path = write_sweep(SWEEP, "x", folder) if kind == "sweep" else write_validation(CALLS, folder)
        pictures.append((path.read_bytes(), path.with_suffix(".png").read_bytes()))
        assert len(pd.read_csv(folder / f"{path.stem}.csv")) == (4 if kind == "sweep" else 3)
    assert pictures[0] == pictures[1]
