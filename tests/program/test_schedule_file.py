"""A user's own schedule from a CSV file."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest

from sim.errors import SimError
from sim.program.lower import lower
from sim.program.schedule_file import schedule_of
from sim.program.table import SCHEDULES, Kind, PassTimes, Table, from_text
from sim.simulation import load, simulate
from sim.spec.scenario import Scenario

Make = Callable[..., Scenario]


def written(path: Path, table: Table) -> str:
    """As torch.distributed.pipelining writes it: a row for each rank, empty cells where one idles."""
    path.write_text("".join(",".join(("", *map(str, row))) + "\n" for row in table))
    return str(path)


@pytest.mark.parametrize(
    ("name", "v"),
    [("1f1b", 1), ("zb_h1", 1), ("interleaved_1f1b", 2), ("zb_v", 2), ("dualpipe_v", 2), ("dualpipe", 1)],
)
def test_a_file_with_the_table_of_a_schedule_is_that_schedule(small: Make, tmp_path: Path, name: str, v: int) -> None:
    table = SCHEDULES[name].table(2, v, 4)
    changes = {
        "layout.pp": 2,
        "layout.vpp": v,
        "layout.dp": 8,
        "layout.schedule": name,
        "training.overlap.pipeline": True,
    }
    own = changes | {"layout.schedule": written(tmp_path / "own.csv", table)}
    expected, found = simulate(small(changes)), simulate(small(own))
    assert found.step_time_s == expected.step_time_s
    assert found.breakdown_s == expected.breakdown_s
    assert found.memory == expected.memory
    assert found.bubble_fraction_closed_form is None
    assert "no closed form is published" in found.bubble_note


def test_pairs_are_read_as_torch_writes_them(tmp_path: Path) -> None:
    """`_Action.__repr__` of torch.distributed.pipelining has the sub-actions in parentheses, ; between them."""
    path = tmp_path / "own.csv"
    path.write_text("0F0,0F1,(0F2;0B0)OVERLAP_F_B,0B1,0B2\n")
    assert schedule_of(str(path)).table(1, 1, 3) == from_text("0F0 0F1 0F2&0B0 0B1 0B2")


def test_a_file_is_found_beside_the_scenario_that_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "far").mkdir()
    written(tmp_path / "far" / "own.csv", SCHEDULES["zb_h2"].table(2, 1, 4))
    small = (Path(__file__).parents[1] / "small.yaml").read_text()
    text = small.replace("schedule: 1f1b", "schedule: own.csv\n  pp: 2")
    (tmp_path / "far" / "mine.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    scenario = load(tmp_path / "far" / "mine.yaml")
    assert schedule_of(scenario.layout.schedule).table(2, 1, 4) == SCHEDULES["zb_h2"].table(2, 1, 4)


def test_a_file_that_was_changed_is_read_again(tmp_path: Path) -> None:
    first, second = SCHEDULES["1f1b"].table(2, 1, 2), SCHEDULES["1f1b"].table(2, 1, 3)
    name = written(tmp_path / "own.csv", first)
    assert schedule_of(name).table(2, 1, 2) == first
    written(tmp_path / "own.csv", second)
    assert schedule_of(name).table(2, 1, 3) == second


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0F0,0B0\n1F0,1X0\n", r"own\.csv: row 2, column 2: no action \(got '1X0', allowed <stage><F, B, I or W>"),
        ("0F0,0B0\n", r"pp = 2, but .*own\.csv has 1 rows \(allowed one for each pipeline rank\)"),
        ("0F0,0B0\n1F0\n", r"own\.csv with pp = 2, vpp = 1 and 1 micro-batches: rank 1 never runs 1B0"),
        ("0F0,0B0,1F0,1B0\n,\n", r"has 1 rows"),
        (
            "0F0,(0B0;0F1)OVERLAP_F_B\n",
            r"column 2: no action \(got '\(0B0;0F1\)OVERLAP_F_B', allowed .* pair of F and B",
        ),
        ("0F0&0B0\n1F0,1B0\n", r"rank 0, position 0: 0B0 runs beside 0F0\n>0F0&0B0<"),
        ("0F0,0B0\n1F0,0B0\n", r"0B0 runs on rank 1, but stage 0 lives on rank 0\n"),
    ],
)
def test_a_mistake_in_a_file_has_its_place(small: Make, tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "own.csv"
    path.write_text(text)
    changes = {"layout.pp": 2, "layout.dp": 8, "training.global_batch": 8, "layout.schedule": str(path)}
    with pytest.raises(SimError, match=message):
        small(changes)


@pytest.mark.parametrize("content", [None, b"\xff\xfe0F0"])
def test_a_file_that_cannot_be_read_is_a_mistake(small: Make, tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "own.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SimError, match=r"layout\.schedule: cannot read .*own\.csv"):
        small({"layout.schedule": str(path)})


def test_a_name_that_is_no_file_and_no_schedule_lists_both() -> None:
    with pytest.raises(SimError, match="zb_h1"):
        schedule_of("zb_h7")


def test_a_first_stage_without_layers_has_no_kernels_in_its_weight_gradients(small: Make) -> None:
    """Gradients of the embedding come with the input's; what is left of W is their reduction."""
    changes = {"layout.pp": 2, "layout.dp": 8, "layout.stage_layers": [0, 4], "layout.schedule": "zb_h1"}
    scenario = small(changes)
    program = lower(scenario, scenario.topology.build(), "folded")
    first = next(rank for rank in program.ranks if rank.pp_rank == 0)
    slots = range(first.first, first.end)
    found = {
        str(first.actions[program.block[slot]]): program.payloads[program.payload[slot]].stream
        for slot in slots
        if getattr(first.actions[program.block[slot]], "kind", None) is Kind.W
    }
    assert found == {"0W3": "dp_reduce"}


def test_a_file_has_no_closed_form_to_break(tmp_path: Path) -> None:
    schedule = schedule_of(written(tmp_path / "own.csv", SCHEDULES["1f1b"].table(2, 1, 2)))
    times = PassTimes(Fraction(1), Fraction(1), Fraction(1))
    assert schedule.bubble_of_ideal(2, 1, 2, times) is None
    assert schedule.bubble_assumptions(2, 1, 2, times) is None
