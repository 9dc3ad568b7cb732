from collections.abc import Callable
from fractions import Fraction

import pytest

from sim.engine.timeline import Timeline
from sim.program.table import SCHEDULES, PassTimes
from sim.results.idle import BUBBLE, Releases, idle, pipeline_window

Playing = Callable[..., Timeline]
GRID = [(p, m) for p in (1, 2, 3, 4, 8) for m in (1, 2, 4, 7, 16)]


@pytest.mark.parametrize("name", ["gpipe", "1f1b"])
@pytest.mark.parametrize(("p", "m"), GRID)
def test_the_step_takes_m_plus_p_minus_1_slots(playing: Playing, name: str, p: int, m: int) -> None:
    timeline = playing(SCHEDULES[name].table(p, 1, m), 1, 1.0, 2.0)
    assert timeline.step_s == pytest.approx((m + p - 1) * 3.0, rel=1e-9)


@pytest.mark.parametrize(("p", "v", "m"), [(2, 2, 4), (4, 2, 8), (4, 3, 4), (8, 4, 16)])
def test_interleaving_divides_the_bubble_by_the_chunks(playing: Playing, p: int, v: int, m: int) -> None:
    timeline = playing(SCHEDULES["interleaved_1f1b"].table(p, v, m), v, 1.0, 2.0)
    ideal = v * m * 3.0
    assert timeline.step_s == pytest.approx(ideal * (1 + (p - 1) / (v * m)), rel=1e-9)


@pytest.mark.parametrize("name", sorted(set(SCHEDULES) - {"zb_1p", "zb_2p"}))
@pytest.mark.parametrize("p", [2, 4])
@pytest.mark.parametrize("m", [8, 12])
@pytest.mark.parametrize(("forward_s", "backward_s", "weight_s"), [(1.0, 2.0, 1.0), (2.0, 3.0, 1.0)])
def test_the_played_bubble_is_the_published_one(
    playing: Playing, name: str, p: int, m: int, forward_s: float, backward_s: float, weight_s: float
) -> None:
    """Of every rank within the pipeline's window, or of the rank that has most within its own span."""
    schedule = SCHEDULES[name]
    v = next(v for v in (1, 2) if schedule.refusal(p, v, m) is None)
    times = PassTimes(*map(Fraction, (forward_s, backward_s - weight_s, weight_s)))
    if name == "zb_v" and forward_s > weight_s:
        assert schedule.bubble_assumptions(p, v, m, times) is not None
        return
    assert schedule.bubble_assumptions(p, v, m, times) is None
    timeline = playing(schedule.table(p, v, m), v, forward_s, backward_s, weight_s=weight_s, schedule=name)
    ideal = schedule.bubble_of_ideal(p, v, m, times)
    assert ideal is not None
    bubbles = bubbles_of(timeline, own_span=schedule.span == "rank")
    work_s = v * m * (forward_s + backward_s)
    assert max(bubbles) / work_s == pytest.approx(float(ideal), rel=1e-9, abs=1e-12)
    if schedule.span == "pipeline":
        assert min(bubbles) == pytest.approx(max(bubbles), rel=1e-9)


def bubbles_of(timeline: Timeline, *, own_span: bool) -> list[float]:
    """Seconds of each rank; idle time of a rank has no other cause."""
    found = []
    for rank in range(len(timeline.program.ranks)):
        window = pipeline_window(timeline, rank if own_span else None)
        idle_times = idle(timeline, Releases(timeline), rank, pipeline_window(timeline))
        causes = idle_times.seconds()
        assert sum(causes.values()) == pytest.approx(causes[BUBBLE], rel=1e-9)
        found.append(idle_times.within(BUBBLE, window.start_s, window.end_s))
    return found
