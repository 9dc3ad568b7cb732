"""What cannot be played is refused before it fills the memory."""

from __future__ import annotations

import pytest

from sim.errors import SimError
from sim.program.lower import Fidelity, lower
from sim.simulation import load


@pytest.mark.parametrize(
    ("changes", "fidelity", "why"),
    [({}, "full", "plays every rank"), ({"conditions.jitter.per_rank": 0.1}, "fused", "no two ranks are alike")],
)
def test_a_program_that_does_not_fit_in_memory_is_refused(
    changes: dict[str, object], fidelity: Fidelity, why: str
) -> None:
    scenario = load("llama3.1-405b_16384xh100_tp8-pp16-dp128", changes)
    with pytest.raises(SimError, match=why) as caught:
        lower(scenario, scenario.topology.build(), fidelity)
    assert "of 16,384 ranks, allowed up to 30,000,000" in str(caught.value)
