"""The repair shop against queueing theory."""

import math

import numpy as np
import pytest
import simpy

from sim.longrun.queues import erlang_wait_s, spares_needed
from sim.longrun.shop import Shop

REPLICAS = 24


def machines_down(machines, crews, mtbf_s, repair_s):
    """Mean number of `machines` that are in repair or wait for it; each fails once in `mtbf_s` while it works.

    Stationary state of the birth-death chain with rates (N - k) / mtbf up and min(k, c) / repair down. Source: the
    machine-repair model, M/M/c//N.

    """
    down = np.arange(1, machines + 1)
    births = np.log((machines - down + 1) / mtbf_s)
    deaths = np.log(np.minimum(down, crews) / repair_s)
    logs = np.concatenate(([0.0], np.cumsum(births - deaths)))
    weights = np.exp(logs - logs.max())
    return float((np.arange(machines + 1) * weights).sum() / weights.sum())


def agrees(values, expected):
    error = np.std(values, ddof=1) / math.sqrt(len(values))
    assert abs(np.mean(values) - expected) < 3.5 * error
    assert error < 0.08 * expected


@pytest.mark.parametrize(("crews", "load"), [(1, 0.5), (2, 1.2), (5, 3.5)])
def test_repairs_wait_as_long_as_erlang_says(crews, load) -> None:
    """Infinite source: failures come as a Poisson process."""
    waits = []
    for seed in range(REPLICAS):
        rng = np.random.default_rng([crews, seed])
        env = simpy.Environment()
        shop = Shop(env, rng, 0, crews)

        def fails(env=env, shop=shop, rng=rng):
            while True:
                yield env.timeout(rng.exponential(1 / load))
                shop.repair(1.0)

        env.process(fails())
        env.run(until=1200.0)
        waits.append(shop.wait_s / shop.num_repairs)
    agrees(waits, erlang_wait_s(crews, load, 1.0))


@pytest.mark.parametrize(("machines", "crews"), [(4, 1), (10, 2), (10, 10)])
def test_machines_are_down_as_the_machine_repair_model_says(machines, crews) -> None:
    """Finite pool: only what works can fail."""
    mtbf_s, down = 5.0, []
    for seed in range(REPLICAS):
        rng = np.random.default_rng([machines, crews, seed])
        env = simpy.Environment()
        shop = Shop(env, rng, machines, crews)

        def fails(env=env, shop=shop, rng=rng):
            while True:
                arrival = shop.arrival()
                timeout = env.timeout(rng.exponential(mtbf_s / shop.idle)) if shop.idle else env.event()
                yield timeout | arrival
                if not arrival.triggered and shop.take(1):
                    shop.repair(1.0)

        env.process(fails())
        env.run(until=800.0)
        shop.settle()
        assert shop.idle_node_s + shop.away_node_s == pytest.approx(machines * 800.0)
        down.append(shop.away_node_s / 800.0)
    agrees(down, machines_down(machines, crews, mtbf_s, 1.0))


def test_one_crew_is_the_queue_of_one_server() -> None:
    assert erlang_wait_s(1, 0.8, 1.0) == pytest.approx(0.8 / (1 - 0.8))


def test_as_many_crews_as_machines_repair_each_on_its_own() -> None:
    assert machines_down(7, 7, 9.0, 1.0) == pytest.approx(7 * 0.1)


def test_crews_that_cannot_keep_up_are_refused() -> None:
    with pytest.raises(ValueError, match="2 crews cannot keep up with 3 repairs"):
        erlang_wait_s(2, 3.0, 1.0)


def test_more_spares_for_slower_repairs() -> None:
    needed = [spares_needed(1000, 1e6, away_s, 0.999) for away_s in (1e2, 1e3, 1e4)]
    assert needed == sorted(set(needed))
