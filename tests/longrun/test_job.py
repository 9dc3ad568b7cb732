"""A simulated run against closed forms and invariants."""

import itertools
import math
import time
from collections import Counter

import numpy as np
import pytest
import simpy

from sim.longrun.drawn import audit, drawn_plan
from sim.longrun.hazards import DAY_S, Failure, Hazards, rate_per_s
from sim.longrun.job import Job
from sim.longrun.ledger import CAUSES, GOOGLE, Ledger
from sim.longrun.load import load
from sim.longrun.plan import plan
from sim.longrun.renewal import ettr, without_checkpoints
from sim.longrun.run import play, replicate
from sim.longrun.stretch import Stretch, Tier
from sim.report.longrun import WORDS
from sim.spec.reliability import Failures

GRID = list(itertools.product([300.0, 3000.0], [20, 200], [0.0, 30.0], [0.0, 60.0]))


def shares(plan, replicas):
    return np.array([outcome.ettr for outcome in replicate(plan, replicas, workers=1)])


def agrees(values, expected):
    error = values.std(ddof=1) / math.sqrt(len(values))
    assert abs(values.mean() - expected) < 3.5 * error
    assert values.mean() == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize(("mtbf_s", "every", "block_s", "restart_s"), GRID)
def test_ettr_is_that_of_the_exact_renewal_form(make, mtbf_s, every, block_s, restart_s) -> None:
    plan = make(mtbf_s=mtbf_s, every_steps=every, block_s=block_s, restart_s=restart_s, window_s=1500 * mtbf_s)
    agrees(shares(plan, 12), ettr(every, mtbf_s, block_s, restart_s))


def test_replicas_that_go_on_lose_the_stall_only(make, entry) -> None:
    """Both rows of FT-HSDP (arXiv 2602.00277) with one MTBF; nodes are back at once."""
    mtbf_s = 768.0
    for stall_s, published in ((600.0, 0.44), (180.0, 0.80)):
        plan = make(
            gpus=16,
            phases=({"name": "main", "step_time_s": 0.01, "tokens_per_step": 1e6, "steps": 10**10},),
            failures=entry({"node": {"per_1000_days": 500 * DAY_S / mtbf_s, "transient_frac": 1.0}}),
            elastic={"replica_nodes": 1, "reconfigure_s": stall_s, "rejoin_s": 0.0},
            block_s=0.0,
            window_s=800 * mtbf_s,
            seed=1,
        )
        values = shares(plan, 48)
        agrees(values, without_checkpoints(mtbf_s, stall_s))
        assert values.mean() == pytest.approx(published, abs=0.03)


def test_a_missing_replica_slows_the_others_in_proportion(make, entry) -> None:
    plan = make(
        gpus=32,
        failures=entry({"node": {"per_1000_days": 1000 * DAY_S / 4e4}}, repair_s=1000.0),
        elastic={"replica_nodes": 1, "min_replicas": 1, "reconfigure_s": 0.0, "rejoin_s": 0.0},
        block_s=0.0,
        restart_s=0.0,
        window_s=4e6,
    )
    found = [play(plan, np.random.SeedSequence(seed)).seconds for seed in range(6)]
    degraded = sum(each["degraded"] for each in found) / sum(each["progress"] for each in found)
    # One of four is away for 1,000 s of every 10,000 s, and a step then takes 4/3 of its time; two at once are rare.
    assert degraded == pytest.approx(0.1 * (1 / 3), rel=0.25)


class Script:
    """A source of failures at given times."""

    def __init__(self, times_s, *, nodes=0, is_silent=False):
        self._times = [*times_s, math.inf]
        self._nodes, self._is_silent = nodes, is_silent
        self.counts = Counter()
        self.evicted_lemons = 0

    @property
    def next_s(self):
        return self._times[0]

    def take(self):
        self._times.pop(0)
        self.counts["scripted"] += 1
        return Failure("scripted", self._nodes, self._nodes, False, self._is_silent, 50.0)


def scripted(plan, times_s, **kind):
    env = simpy.Environment()
    job = Job(env, plan, np.random.SeedSequence(0))
    job.hazards = Script(times_s, **kind)
    env.run(until=env.process(job.run()))
    wall_s = env.now
    spares_s = job.shop.idle_node_s + job.shop.away_node_s
    fleet_s = (plan.num_nodes + plan.file.spares.nodes) * wall_s
    assert job.ledger.violations(wall_s, fleet_s, spares_s) == []
    return job, wall_s


def short(make, **changes):
    """100 steps of 1 s, a checkpoint of 5 s every 10, restart 20 s; the first start takes 20 s too."""
    phases = ({"name": "main", "step_time_s": 1.0, "tokens_per_step": 1.0, "steps": 100},)
    return make(phases=phases, every_steps=10, **changes)


def asynchronous(make, persist_s):
    checkpoint = {"mode": "async", "every_steps": 10, "snapshot_s": 0.0, "persist_s": persist_s, "load_s": 0.0}
    return short(make, checkpoint=checkpoint)


def test_without_failures_the_time_is_start_steps_and_checkpoints(make) -> None:
    job, wall_s = scripted(short(make), [])
    assert wall_s == 20 + 100 + 10 * 5
    assert (job.ledger.executed, job.ledger.lost) == (100, 0)


def test_a_failure_costs_the_restart_and_the_steps_since_the_checkpoint(make) -> None:
    job, wall_s = scripted(short(make), [20 + 15 + 4.5])
    assert job.ledger.lost == 4
    assert wall_s == pytest.approx(170 + 20 + 4.5)
    assert job.ledger.seconds["lost"] == pytest.approx(4.5)


def test_a_second_failure_after_replay_and_before_the_next_commit_loses_all_since_the_first_commit(make) -> None:
    first = 20 + 15 + 4.5
    job, wall_s = scripted(short(make), [first, first + 20 + 6.5])
    assert job.ledger.lost == 4 + 6
    assert job.ledger.replayed == 4 + 6
    assert wall_s == pytest.approx(170 + 2 * 20 + 4.5 + 6.5)


def test_a_failure_during_the_restart_starts_it_again(make) -> None:
    first = 20 + 15 + 4.5
    _, wall_s = scripted(short(make), [first, first + 7])
    assert wall_s == pytest.approx(170 + 4.5 + 7 + 20)


def test_two_failures_at_one_instant_cost_one_restart(make) -> None:
    job, wall_s = scripted(short(make), [39.5, 39.5])
    assert job.restarts == 2
    assert wall_s == pytest.approx(170 + 20 + 4.5)


def test_a_failure_during_a_blocking_checkpoint_loses_it(make) -> None:
    job, wall_s = scripted(short(make), [20 + 15 + 10 + 2])
    assert job.ledger.lost == 10
    assert wall_s == pytest.approx(170 + 2 + 10 + 20)


@pytest.mark.parametrize(("after_s", "lost"), [(3.5, 13), (8.5, 8)])
def test_a_failure_while_a_checkpoint_is_written_falls_back_on_the_one_before(make, after_s, lost) -> None:
    job, _ = scripted(asynchronous(make, persist_s=4.0), [20 + 20 + after_s])
    assert job.ledger.lost == lost


def test_the_interval_is_no_shorter_than_the_write(make) -> None:
    plan = asynchronous(make, persist_s=33.3)
    assert plan.phases[0].tiers[0].every_steps == 34
    assert "34 steps instead of 10" in plan.notes[0]


def test_copies_in_memory_survive_one_node_and_not_two(make) -> None:
    memory = {"memory_every_steps": 1, "memory_copies": 2, "memory_snapshot_s": 0.0, "memory_load_s": 0.0}
    checkpoint = {"mode": "memory", "every_steps": 10, "snapshot_s": 0.0, "persist_s": 0.0, "load_s": 0.0} | memory
    plan = short(make, checkpoint=checkpoint, gpus=32, spares={"nodes": 2})
    assert scripted(plan, [20 + 17.5], nodes=1)[0].ledger.lost == 0
    assert scripted(plan, [20 + 17.5], nodes=2)[0].ledger.lost == 7


def test_without_a_spare_the_job_waits_for_the_repair(make) -> None:
    with_spare, without = (short(make, gpus=16, spares={"nodes": nodes}) for nodes in (1, 0))
    assert scripted(with_spare, [39.5], nodes=1)[0].ledger.seconds["wait_spare"] == 0
    job, wall_s = scripted(without, [39.5], nodes=1)
    waited_s = job.ledger.seconds["wait_spare"]
    assert waited_s > 0
    assert wall_s == pytest.approx(170 + 20 + 4.5 + waited_s)
    assert job.ledger.node_seconds["wait_spare"] == pytest.approx(waited_s)


@pytest.mark.parametrize(("keep", "back_to"), [(None, 10), (2, 0)])
def test_silent_corruption_goes_back_before_it_if_such_a_checkpoint_is_kept(make, keep, back_to) -> None:
    checkpoint = {"mode": "sync", "every_steps": 10, "persist_s": 0.0, "load_s": 0.0, "keep": keep}
    recovery = dict.fromkeys(("detect_s", "hang_detect_s", "diagnose_s", "reschedule_s", "catch_up_s", "init_s"), 0.0)
    plan = short(make, checkpoint=checkpoint, recovery=recovery | {"silent_detect_s": 15.0})
    job, _ = scripted(plan, [12.5], is_silent=True)
    found_at = job.ledger.lost + back_to
    assert job.silent_found == 1
    assert found_at > 30, "the seed finds it late enough to try the retention"
    assert job.ledger.reached == 100


def test_a_straggler_slows_and_is_evicted(make, entry) -> None:
    stragglers = {"per_1000_days": 1000 * DAY_S / 500, "slowdown": 2.0, "lasts_s": 1e9, "detect_s": 10.0}
    quiet = entry({"node": {"per_1000_days": 1e-6}})
    for evict in (True, False):
        plan = make(failures=quiet, stragglers=stragglers | {"evict": evict}, spares={"nodes": 4}, window_s=20_000.0)
        found = play(plan, np.random.SeedSequence(1))
        share = found.seconds["straggler"] / found.wall_s
        assert (found.evictions > 10) is evict
        assert share < 0.05 if evict else share > 0.4
        assert found.lost == 0


def test_hangs_are_noticed_late(make, entry) -> None:
    component = {"per_1000_days": 1000 * DAY_S / 1000, "transient_frac": 1.0}
    recovery = dict.fromkeys(("silent_detect_s", "diagnose_s", "reschedule_s", "catch_up_s", "init_s"), 0.0)
    times = {"detect_s": 1.0, "hang_detect_s": 50.0}
    for hang_frac, each_s in ((0.0, 1.0), (1.0, 50.0)):
        plan = make(
            failures=entry({"node": component | {"hang_frac": hang_frac}}), recovery=recovery | times, window_s=5e5
        )
        found = play(plan, np.random.SeedSequence(2))
        assert found.seconds["detect"] == pytest.approx(each_s * found.restarts, rel=0.05)


# Failures.


def test_counts_of_components_are_those_of_their_rates(entry) -> None:
    found = entry(
        {
            "node": {"per_1000_days": 100.0},
            "ageing": {"per_1000_days": 50.0, "shape": 2.0},
            "rack": {"per_1000_days": 30.0, "scope": "group", "nodes": 4},
            "job": {"per_1000_days": 5000.0, "scope": "job", "transient_frac": 1.0},
        }
    )
    hazards = Hazards(Failures.model_validate(found), 40, np.random.default_rng(3))
    days = 3000
    while hazards.next_s < days * DAY_S:
        hazards.take()
    expected = {"node": 40 * 300, "ageing": 40 * 150, "rack": 10 * 90, "job": 15000}
    for name, count in expected.items():
        assert hazards.counts[name] == pytest.approx(count, abs=4 * math.sqrt(count)), name


@pytest.mark.parametrize("shape", [0.5, 0.8, 3.0])
def test_as_many_ageing_units_fail_in_the_first_days_as_later(entry, shape) -> None:
    found = Failures.model_validate(entry({"fan": {"per_1000_days": 1.0, "shape": shape}}))
    hazards = Hazards(found, 20_000, np.random.default_rng(6))
    for day in (50, 100, 150):
        before = sum(hazards.counts.values())
        while hazards.next_s < day * DAY_S:
            hazards.take()
        assert sum(hazards.counts.values()) - before == pytest.approx(1000, abs=4 * math.sqrt(1000))


def test_lemons_fail_more_often_until_they_are_out(entry) -> None:
    lemons = {"frac": 0.1, "factor": 10.0, "evict_after": 2}
    parsed = Failures.model_validate(entry({"node": {"per_1000_days": 100.0}}, lemons=lemons))
    assert rate_per_s(parsed, 100) * DAY_S == pytest.approx(0.1 * (90 + 10 * 10))
    hazards = Hazards(parsed, 100, np.random.default_rng(4))
    while hazards.next_s < 100 * DAY_S:
        hazards.take()
    assert hazards.evicted_lemons == 10
    start_s, before = hazards.next_s, sum(hazards.counts.values())
    while hazards.next_s < start_s + 1000 * DAY_S:
        hazards.take()
    assert sum(hazards.counts.values()) - before == pytest.approx(10_000, abs=400)


# Accounts.


@pytest.mark.parametrize("first", range(0, 2000, 250))
def test_no_account_is_violated_in_random_runs(first) -> None:
    found = audit(250, first, workers=1)
    assert found.violations == {}
    assert found.runs == 250
    assert found.restarts > 500
    assert found.replayed_steps > 1000


def test_random_runs_are_of_every_kind() -> None:
    plans = [drawn_plan(seed).file for seed in range(60)]
    assert {plan.checkpoint.mode for plan in plans} == {"sync", "async", "memory"}
    assert {name for plan in plans for name in plan.failures.components} == {"node", "ageing", "rack", "job"}
    for part in ("elastic", "stragglers", "spikes"):
        assert {getattr(plan, part) is None for plan in plans} == {True, False}


def test_a_wrong_account_is_found() -> None:
    ledger = Ledger()
    ledger.execute((0, 10), 1.0, 0.0, 0.0, 2)
    assert ledger.violations(10.0, 20.0, 0.0) == []
    assert "causes take" in ledger.violations(11.0, 20.0, 0.0)[0]
    assert "nodes take" in ledger.violations(10.0, 20.0, 1.0)[0]
    ledger.lost += 1
    assert "10 steps done, but 10 kept and 1 lost" in ledger.violations(10.0, 20.0, 0.0)


def test_every_cause_has_a_class_of_google_and_a_word() -> None:
    assert set(CAUSES) == set(GOOGLE) <= set(WORDS)


# Cost and repeatability.


def test_the_same_seed_gives_the_same_runs_whatever_the_workers(make) -> None:
    plan = make(window_s=1e5)
    alone = replicate(plan, 6, workers=1)
    assert alone == replicate(plan, 6, workers=2)
    assert len({outcome.ettr for outcome in alone}) == 6


def test_cost_grows_with_failures_and_not_with_steps(make) -> None:
    times = []
    for steps in (1, 1000):
        phases = ({"name": "main", "step_time_s": 1.0 / steps, "tokens_per_step": 1.0, "steps": 10**12},)
        plan = make(phases=phases, every_steps=100 * steps, window_s=2e6)
        start_s = time.process_time()
        play(plan, np.random.SeedSequence(5))
        times.append(time.process_time() - start_s)
    assert times[1] < 3 * times[0]


def test_90_days_of_131072_gpus_take_about_a_second() -> None:
    name = "gpt-1t_131072xh100_90-days"
    planned = plan(load(name), name)
    start_s = time.process_time()
    found = play(planned, np.random.SeedSequence(0))
    # Under 1 s on a core of its own; a shared one of a test machine is allowed more.
    assert time.process_time() - start_s < 4
    assert found.wall_s * planned.num_gpus / 3600 == pytest.approx(2.83e8, rel=1e-3)
    assert found.restarts > 5000
    assert found.violations == ()


def test_stretch_counts_steps_as_one_by_one() -> None:
    tiers = (Tier(7, 0.5, 0.0), Tier(3, 0.25, 0.0))
    stretch = Stretch(5, 0.1, tiers)
    now_s, ends = 0.0, []
    for step in range(1, 80):
        now_s += 0.1
        ends.append(now_s)
        assert stretch.trained_at(step) == pytest.approx(now_s)
        now_s += sum(tier.block_s for tier in tiers if (5 + step) % tier.every_steps == 0)
        assert stretch.time_at(step) == pytest.approx(now_s)
    for time_s in np.linspace(0, ends[-1] - 1e-6, 300):
        assert stretch.steps_at(float(time_s)) in {
            sum(end <= time_s + 1e-9 for end in ends),
            sum(end <= time_s - 1e-9 for end in ends),
        }
