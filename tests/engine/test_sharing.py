from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.engine.sharing import fair_rates
from sim.program.lower import lower
from sim.spec.conditions import built_fabric
from sim.spec.scenario import Scenario

Case = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    num_flows = draw(st.integers(1, 12))
    num_links = draw(st.integers(1, 8))
    rows = {}
    for flow in range(num_flows):
        for link in draw(st.sets(st.integers(0, num_links - 1), min_size=1)):
            rows[flow, link] = draw(st.floats(0.01, 10))
    capacity = draw(st.lists(st.floats(0.1, 100), min_size=num_links, max_size=num_links))
    limit = draw(st.lists(st.just(np.inf) | st.floats(0.01, 10), min_size=num_flows, max_size=num_flows))
    flow, link = np.array(list(rows), dtype=np.int64).T
    return flow, link, np.array(list(rows.values())), np.array(capacity), np.array(limit)


def check_bottlenecks(case: Case) -> None:
    """Every flow is at its limit or has a full link on which nobody is faster, and no link is over-full."""
    flow, link, load, capacity, limit = case
    rate = fair_rates(*case)
    used = np.bincount(link, weights=load * rate[flow], minlength=len(capacity))
    assert (used <= capacity * (1 + 1e-9)).all()
    assert (rate <= limit * (1 + 1e-9)).all()
    for number in np.flatnonzero(rate < limit * (1 - 1e-9)):
        mine = link[flow == number]
        full = [one for one in mine if used[one] >= capacity[one] * (1 - 1e-6)]
        assert any(rate[number] >= rate[flow[link == one]].max() * (1 - 1e-6) for one in full)


@given(cases())
def test_every_flow_is_at_its_limit_or_has_a_full_link_on_which_nobody_is_faster(case: Case) -> None:
    check_bottlenecks(case)


@pytest.mark.parametrize("topology", ["dgx-h100", "fat-tree-a100-4nic", "fat-tree-h100-2to1"])
@pytest.mark.parametrize("order", ["tp-cp-ep-dp-pp", "dp-tp-cp-ep-pp", "pp-tp-cp-ep-dp"])
def test_so_has_every_collective_of_a_step_whatever_runs_beside_it(
    topology: str, order: str, small: Callable[[dict[str, object]], Scenario]
) -> None:
    """Loads of real algorithms and hops, any of them at once."""
    scenario = small(
        {
            "topology": {"use": topology, "nodes": 3},
            "model.num_layers": 6,
            "layout.tp": 2,
            "layout.cp": 2,
            "layout.pp": 3,
            "layout.order": order,
            "layout.zero": 1,
            "conditions.background": {"nic": 0.3, "gpu1-nvswitch0": 0.5},
        }
    )
    flows = lower(scenario, built_fabric(scenario), "full").flows
    loading = np.unique(flows.row_flow)
    rng = np.random.default_rng(0)
    for size in rng.integers(1, len(loading) + 1, 20).tolist():
        running = np.sort(rng.choice(loading, size, replace=False))
        rows = np.flatnonzero(np.isin(flows.row_flow, running))
        number = np.searchsorted(running, flows.row_flow[rows])
        limit = flows.limit_per_s[running]
        check_bottlenecks((number, flows.row_link[rows], flows.row_load[rows], flows.link_bytes_per_s, limit))


@given(cases(), st.integers(2, 5))
def test_a_class_of_like_flows_gets_what_each_member_gets(case: Case, copies: int) -> None:
    """A quotient link carries the load of all members: the rate of a class is the rate of each of its members."""
    flow, link, load, capacity, limit = case
    together = fair_rates(flow, link, load * copies, capacity, limit)
    numbers = np.concatenate([flow + copy * len(limit) for copy in range(copies)])
    apart = fair_rates(numbers, np.tile(link, copies), np.tile(load, copies), capacity, np.tile(limit, copies))
    assert np.allclose(apart, np.tile(together, copies), rtol=1e-9)


def test_two_flows_share_a_link_and_the_third_takes_what_is_left() -> None:
    # Links of 10 and 4: flows 0 and 1 on link 0, flows 1 and 2 on link 1. Flow 1 and 2 stop at 2; flow 0 gets 8.
    flow, link = np.array([0, 1, 1, 2]), np.array([0, 0, 1, 1])
    rate = fair_rates(flow, link, np.ones(4), np.array([10.0, 4.0]), np.full(3, np.inf))
    assert rate.tolist() == [8.0, 2.0, 2.0]


def test_what_a_limited_flow_leaves_goes_to_the_others() -> None:
    flow, link = np.array([0, 1]), np.array([0, 0])
    assert fair_rates(flow, link, np.ones(2), np.array([10.0]), np.array([3.0, np.inf])).tolist() == [3.0, 7.0]
