"""Memory over the step against the peak that the memory model gives, and against the played passes."""

from collections.abc import Callable

import numpy as np
import pytest

from sim.program.activations import embedding_bytes
from sim.program.model_state import bytes_per_parameter
from sim.program.replication import replication
from sim.program.shapes import shapes
from sim.program.table import SCHEDULES
from sim.results.idle import compute_slots
from sim.results.memory_timeline import NOT_TENSORS, memory_timeline
from sim.simulation import run
from sim.spec.scenario import Scenario

Make = Callable[..., Scenario]
CASES = {
    "one rank of each": {"layout.tp": 8},
    "pipeline": {"layout.tp": 2, "layout.pp": 4, "layout.zero": 1},
    "zero 2": {"layout.tp": 8, "layout.zero": 2},
    "zero 3 of fsdp2": {"layout.zero": 3, "stack": "torchtitan"},
    "full recomputation": {"layout.pp": 2, "training.recompute": "full"},
    "eager optimizer": {"stack.kernels.optimizer": "eager", "training.seq_len": 128, "training.global_batch": 16},
    "ends without layers": {"layout.pp": 4, "layout.schedule": "zb_h1", "layout.stage_layers": [0, 2, 2, 0]},
    "multi-token prediction": {"layout.pp": 2, "layout.zero": 1, "model.mtp_layers": 2},
    "interleaved": {"layout.pp": 2, "layout.vpp": 2, "layout.tp": 4, "layout.schedule": "interleaved_1f1b"},
    "passes in pairs": {"layout.pp": 2, "layout.tp": 2, "layout.schedule": "dualpipe"},
    "pairs of unlike stages": {
        "layout.pp": 2,
        "layout.vpp": 2,
        "layout.tp": 2,
        "layout.schedule": "dualpipe_v",
        "layout.stage_layers": [1, 2, 1, 0],
    },
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("fidelity", ["folded", "fused"])
def test_the_highest_level_is_the_allocated_peak(small: Make, name: str, fidelity: str) -> None:
    scenario = small(CASES[name])
    simulation = run(scenario, fidelity)
    courses = memory_timeline(simulation.timeline, scenario)
    for course, stage in zip(courses, simulation.result.memory, strict=True):
        assert course.total_bytes.max() == pytest.approx(stage.allocated_bytes, rel=1e-12)
        peak = {key: course.bytes_by_category[key][course.total_bytes.argmax()] for key in course.bytes_by_category}
        assert peak == {key: value for key, value in stage.parts_bytes.items() if key not in NOT_TENSORS}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_step_begins_and_ends_without_activations(small: Make, schedule: str) -> None:
    chunks = next(v for v in (1, 2) if SCHEDULES[schedule].refusal(2, v, 4) is None)
    scenario = small({"layout.pp": 2, "layout.vpp": chunks, "layout.schedule": schedule})
    simulation = run(scenario)
    for course in memory_timeline(simulation.timeline, scenario):
        assert course.start_s[0] == 0
        assert (np.diff(course.start_s) > 0).all()
        assert course.start_s[-1] <= simulation.timeline.step_s
        assert course.bytes_by_category["activations"][-1] == pytest.approx(0, abs=1e-3)
        assert course.bytes_by_category["logits"][-1] == pytest.approx(0, abs=1e-3)
        assert (course.bytes_by_category["parameters"] == course.bytes_by_category["parameters"][0]).all()


def test_activations_appear_with_the_first_pass_that_is_played(small: Make) -> None:
    """On the last of two ranks, when the first forward pass reached it; on the first, at once with the ids."""
    scenario = small({"layout.pp": 2})
    timeline = run(scenario).timeline
    first, last = memory_timeline(timeline, scenario)
    start_s = [timeline.start_s[compute_slots(timeline, index)[0]] for index in range(2)]
    assert first.bytes_by_category["activations"][0] == embedding_bytes(scenario.model, shapes(scenario))
    appears = np.flatnonzero(last.bytes_by_category["activations"])[0]
    assert last.start_s[appears] == start_s[1] > 0


def test_the_optimizers_work_lies_at_the_end_of_the_step(small: Make) -> None:
    scenario = small(CASES["eager optimizer"])
    timeline = run(scenario).timeline
    (course,) = memory_timeline(timeline, scenario)
    optimizer = course.bytes_by_category["optimizer"]
    state = bytes_per_parameter(scenario, replication(scenario))
    assert np.flatnonzero(optimizer > optimizer[0]).tolist() == [len(optimizer) - 2]
    assert optimizer.max() / optimizer[0] == pytest.approx(1 + 4 / state.optimizer_bytes)
