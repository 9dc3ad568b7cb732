from __future__ import annotations

import pytest
from pydantic import ValidationError

from sim.cost.slowdown import combined, slowdown_factor
from sim.spec.gpu import Gpu, SlowdownFactors

FACTORS = {"collective": 1.1, "all_to_all": 1.2, "send": 1.3}


def gpu() -> Gpu:
    return Gpu.model_construct().model_copy(update={"slowdown": SlowdownFactors.model_validate(FACTORS)})


@pytest.mark.parametrize(
    ("op", "factor"),
    [
        ("all_reduce", 1.1),
        ("all_gather", 1.1),
        ("reduce_scatter", 1.1),
        ("broadcast", 1.1),
        ("all_to_all", 1.2),
        ("send", 1.3),
    ],
)
def test_each_operation_has_the_factor_of_its_kind(op: str, factor: float) -> None:
    assert slowdown_factor(op, gpu()) == factor


def test_an_unknown_operation_is_not_passed_over() -> None:
    with pytest.raises(AssertionError, match="gossip"):
        slowdown_factor("gossip", gpu())


def test_two_kinds_leave_the_product_of_what_each_leaves() -> None:
    # One leaves 3/4 of the GPU and the other 1/2 of that: 3/8 of the rate.
    assert combined([4 / 3, 2.0]) == pytest.approx(8 / 3, rel=1e-12)


def test_nothing_beside_a_kernel_slows_nothing() -> None:
    assert combined([]) == 1.0


@pytest.mark.parametrize("key", FACTORS)
@pytest.mark.parametrize("factor", [1.0, 3.0])
def test_limits_are_included(key: str, factor: float) -> None:
    assert SlowdownFactors.model_validate({**FACTORS, key: factor}).model_dump()[key] == factor


@pytest.mark.parametrize("key", FACTORS)
@pytest.mark.parametrize("factor", [0.999, 3.001])
def test_a_kernel_that_gets_faster_or_all_but_stops_is_refused(key: str, factor: float) -> None:
    with pytest.raises(ValidationError, match=rf"(?s){key}.*(greater|less) than or equal to (1|3)"):
        SlowdownFactors.model_validate({**FACTORS, key: factor})
