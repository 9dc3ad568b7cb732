from collections.abc import Callable

import pytest

from sim.engine.timeline import Timeline
from sim.program.table import SCHEDULES
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


@pytest.mark.parametrize("name", sorted(SCHEDULES))
@pytest.mark.parametrize("p", [2, 4])
@pytest.mark.parametrize("m", [4, 8])
def test_the_played_bubble_is_the_published_one_on_every_rank(playing: Playing, name: str, p: int, m: int) -> None:
    v = 2 if name.startswith("interleaved") else 1
    schedule = SCHEDULES[name]
    assert schedule.bubble_assumptions(p, v, m) is None
    timeline = playing(schedule.table(p, v, m), v, 1.0, 2.0)
    ideal = schedule.bubble_of_ideal(p, v, m)
    assert ideal is not None
    window = pipeline_window(timeline)
    for rank in range(p):
        causes = idle(timeline, Releases(timeline), rank, window).seconds()
        assert causes.get(BUBBLE, 0.0) / timeline.step_s == pytest.approx(float(ideal / (1 + ideal)), rel=1e-9)
        assert sum(causes.values()) == pytest.approx(causes[BUBBLE], rel=1e-9)
