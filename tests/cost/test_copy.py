from __future__ import annotations

import pytest

from sim.cost.copy import Copy, HostUpdate, copy_s, host_update_s
from sim.spec.gpu import CopyConstants

CONSTANTS = CopyConstants(
    host_to_device_bytes_per_s=50e9, device_to_host_bytes_per_s=25e9, host_update_bytes_per_s=14e9, latency_s=1e-5
)


def test_a_copy_takes_its_latency_and_bytes_over_the_rate_of_its_direction() -> None:
    assert copy_s(Copy("parameters", 1e9, "host_to_device"), CONSTANTS) == pytest.approx(1e-5 + 0.02, rel=1e-9)
    assert copy_s(Copy("gradients", 1e9, "device_to_host"), CONSTANTS) == pytest.approx(1e-5 + 0.04, rel=1e-9)


def test_nothing_to_copy_still_takes_the_latency() -> None:
    assert copy_s(Copy("nothing", 0.0, "host_to_device"), CONSTANTS) == 1e-5


def test_adam_over_a_billion_parameters_moves_28_bytes_each() -> None:
    assert host_update_s(HostUpdate("adam", 28e9), CONSTANTS) == pytest.approx(2.0, rel=1e-9)
