"""A GPU that nobody has is profiled, its files are calibrated onto an entry that is wrong, and it comes back."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import typer
import yaml
from typer.testing import CliRunner

from sim import units
from sim.calibrate.entry import (
    Entry,
    below,
    dimension_of,
    gpu_of,
    leaves,
    read_entry,
    text,
    with_constants,
)
from sim.calibrate.errors import Errors, errors_of
from sim.calibrate.kind import KINDS
from sim.calibrate.measured import measured_on
from sim.cli import calibrate
from sim.profile.case import Size
from sim.profile.run import SECTIONS, measure_section
from sim.spec.find import find
from sim.spec.scenario import Scenario

MACHINE = runpy.run_path(str(Path(__file__).parent / "machine.py"))
NAME = "h100-sxm"
TRUE = gpu_of(read_entry(find("gpus", NAME)))
NUM_GPUS = 8
NOISE = 0.02

PROFILED = ("gemm.bf16", "gemm.fp8", "attention.fa2", "attention.fa3", "attention.cudnn", "memory_bound", "copy")
OFF = 0.8
"""What a profile tells is a fifth less in the entry that is calibrated."""

UNTOLD: dict[Size, tuple[str, ...]] = {"quick": ("long_frac", "full_head_dim", "edge_keys"), "full": ()}
"""Of attention: a quick profile has few long launches, no wide head, and few rows of each mask."""

LOOSER: dict[Size, float] = {"quick": 2.5, "full": 1.0}
"""How much further off a quick profile may be, with a tenth of the rows and one sustained product."""

KIND_NAMES = ("gemm", "gemm_sustained", "attention", "attention_sustained", "memory_bound", "copy")


@dataclass(frozen=True)
class RoundTrip:
    """What `sim profile` wrote of the machine, by section; the wrong entry, the fitted one, and what was printed."""

    size: Size
    files: dict[str, Path]
    wrong: Entry
    fitted: Entry
    said: str


def profiled(folder: Path, size: Size) -> dict[str, Path]:
    machine = MACHINE["Machine"](TRUE, name="NVIDIA H100 80GB HBM3", num_gpus=NUM_GPUS, noise=NOISE)

    def tell(line: str) -> None:
        assert "left out" not in line or "left out, it needs" in line, line

    with pytest.MonkeyPatch.context() as patch:
        for name, module in machine.modules().items():
            patch.setitem(sys.modules, name, module)
        return {
            name: measure_section(section, machine, folder, size, gpu=NAME, tell=tell).path
            for name, section in SECTIONS.items()
        }


def perturbed(size: Size) -> Entry:
    entry = read_entry(find("gpus", NAME))
    constants = {}
    for key, value in leaves(entry.tree):
        is_untold = key.startswith("attention") and key.endswith(UNTOLD[size])
        if key.startswith(PROFILED) and not isinstance(value, list) and not is_untold:
            dimension = dimension_of(key)
            constants[key] = OFF * (float(value) if dimension is None else units.parse(value, dimension))
    return with_constants(entry, constants, dict.fromkeys(constants, "off by a fifth"))


@pytest.fixture(scope="module", params=["quick", pytest.param("full", marks=pytest.mark.slow)])
def trip(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> RoundTrip:
    folder = tmp_path_factory.mktemp("trip")
    files = profiled(folder / "measured", request.param)
    wrong, out = folder / "wrong.yaml", folder / "mine.yaml"
    wrong.write_text(text(perturbed(request.param)))
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(calibrate.command)
    arguments = [str(wrong), *map(str, files.values()), "--out", str(out)]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return RoundTrip(request.param, files, read_entry(wrong), read_entry(out), result.stdout)


def rows_of(trip: RoundTrip, name: str) -> pd.DataFrame:
    """Rows of training sizes of one kind."""
    rows = KINDS[name].rows(measured_on(trip.files[name], KINDS[name], NAME).rows)
    assert rows.skipped == {}
    table = rows.table
    return table[table["is_training"].astype(bool)]


def errors(trip: RoundTrip, name: str, entry: Entry) -> Errors:
    """How far the predictions of an entry are from what the machine takes without noise."""
    table = rows_of(trip, name)
    found = errors_of(KINDS[name].predicted_s(table, gpu_of(entry)), KINDS[name].predicted_s(table, TRUE))
    assert found is not None
    return found


@pytest.mark.parametrize("name", KIND_NAMES)
def test_predictions_come_back(trip: RoundTrip, name: str) -> None:
    before, after = errors(trip, name, trip.wrong), errors(trip, name, trip.fitted)
    assert before.bias > 15.0
    assert abs(after.bias) < 1.5 * LOOSER[trip.size]
    assert after.mape < 2.0 * LOOSER[trip.size]


@pytest.mark.parametrize("name", KIND_NAMES)
def test_what_is_measured_is_what_the_files_say_of_it(trip: RoundTrip, name: str) -> None:
    """Times of the machine come from its tensors, predictions of the true GPU from the columns."""
    table = rows_of(trip, name)
    ratio = np.log(table["time_s"] / KINDS[name].predicted_s(table, TRUE))
    assert np.abs(ratio).max() < 5 * NOISE
    assert abs(ratio.mean()) < 4 * NOISE / np.sqrt(len(ratio))


CONSTANTS = {
    "gemm.bf16.flop_frac": 0.03,
    "gemm.bf16.in_run_frac": 0.03,
    "gemm.fp8.flop_frac": 0.03,
    "attention.fa3.forward.flop_frac": 0.03,
    "attention.fa3.backward.flop_frac": 0.03,
    "attention.fa3.in_run_frac": 0.03,
    "attention.fa2.forward.flop_frac": 0.05,
    "attention.cudnn.backward.flop_frac": 0.05,
    "memory_bound.elementwise.hbm_frac": 0.02,
    "memory_bound.norm.hbm_frac": 0.02,
    "memory_bound.softmax.hbm_frac": 0.02,
    "memory_bound.gather.hbm_frac": 0.02,
    "memory_bound.launch": 0.05,
    "copy.host_to_device": 0.05,
    "copy.device_to_host": 0.05,
    "copy.latency": 0.1,
    "copy.host_update": 0.1,
}


@pytest.mark.parametrize(("key", "rel"), CONSTANTS.items())
def test_constants_come_back(trip: RoundTrip, key: str, rel: float) -> None:
    true, fitted = read_entry(find("gpus", NAME)), trip.fitted
    dimension = dimension_of(key)
    was, found = (below(entry.tree, key) for entry in (true, fitted))
    if dimension is not None:
        was, found = units.parse(was, dimension), units.parse(found, dimension)
    assert found == pytest.approx(was, rel=rel * LOOSER[trip.size])


def test_no_number_that_a_profile_tells_is_left_as_it_was(trip: RoundTrip) -> None:
    assert "off by a fifth" in trip.wrong.sources.values()
    assert "off by a fifth" not in trip.fitted.sources.values()


def test_a_sustained_share_is_cited_with_clock_and_power_and_carried_to_experts(trip: RoundTrip) -> None:
    said = trip.fitted.sources["gemm.bf16.in_run_frac"]
    assert "fitted to gemm_sustained__h100-sxm__torch-9.9.0+cu130.csv" in said
    assert "at 1,410 MHz and 698 W" in said
    share = below(trip.fitted.tree, "gemm.bf16.in_run_frac")
    assert below(trip.fitted.tree, "grouped_gemm.in_run_frac.bf16") == share


def test_errors_are_shown_by_layout_and_pass(trip: RoundTrip) -> None:
    layouts = set(rows_of(trip, "gemm")["region"])
    assert layouts == {f"m, n, k >= 512, {layout}" for layout in ("TN", "NN", "NT")}
    attention = rows_of(trip, "attention")
    assert set(attention["kernel"]) == {"fa2", "fa3", "cudnn"}
    assert attention["is_backward"].sum() == len(attention) / 2
    assert {"backward, causal, head dim 128", "full, head dim 128"} <= set(attention["region"])


def test_launches_are_printed_as_the_host_of_a_scenario(trip: RoundTrip, small: Callable[..., Scenario]) -> None:
    printed = yaml.safe_load(trip.said.split("lines for a scenario:\n")[1].split("wrote ")[0])
    host = small(printed).stack.host
    assert host.kernel_s == pytest.approx(MACHINE["AUTOGRAD_PRODUCT_S"], rel=5 * NOISE)
    assert host.graph_s == pytest.approx(MACHINE["GRAPH_S"], rel=5 * NOISE)
