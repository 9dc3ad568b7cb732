"""What a GPU draws while one kernel runs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.cost.copy import Copy, HostUpdate
from sim.cost.gemm import Gemm
from sim.cost.kernels import duration_s, flop, hbm_bytes
from sim.cost.power import communication_w, compute_w, flop_j, idle_w, kernel_j, node_w, power_model
from sim.cost.stream import Stream
from sim.simulation import load
from sim.spec.find import names
from sim.spec.gpu import Gpu, gemm_constants

GPU: Gpu = load("llama2-70b_128xh100_tp8-pp2-dp8").gpu
SIDES = st.sampled_from([64, 512, 4096, 16384])


def gpu(name: str) -> Gpu:
    """A GPU of the catalogue."""
    return load("tests/small.yaml", [f"gpu={name}"]).gpu


def test_the_sustained_product_draws_the_tdp_in_every_number_format() -> None:
    for number_format, peak in GPU.peak_flop_per_s.items():
        constants = gemm_constants(GPU, number_format)
        rate = peak * constants.flop_frac * constants.in_run_frac
        assert compute_w(GPU) + rate * flop_j(GPU, number_format) == pytest.approx(GPU.tdp_w, rel=1e-12)


def test_a_product_at_half_that_rate_draws_half_of_what_is_above_the_floor() -> None:
    gemm = Gemm("up", 8192, 8192, 8192, "bf16")
    constants = gemm_constants(GPU, "bf16")
    rate = GPU.peak_flop_per_s["bf16"] * constants.flop_frac * constants.in_run_frac
    time_s = 2 * flop(gemm) / rate
    moved_j = hbm_bytes(gemm) * power_model().hbm_j_per_byte
    expected = (compute_w(GPU) + (GPU.tdp_w - compute_w(GPU)) / 2) * time_s + moved_j
    assert kernel_j(gemm, GPU, time_s) == pytest.approx(expected, rel=1e-12)


@given(SIDES, SIDES, SIDES)
def test_a_kernel_draws_from_its_floor_to_the_tdp(m: int, n: int, k: int) -> None:
    gemm = Gemm("up", m, n, k, "bf16")
    time_s = duration_s(gemm, GPU)
    assert compute_w(GPU) * time_s <= kernel_j(gemm, GPU, time_s) <= GPU.tdp_w * time_s * (1 + 1e-12)


@given(st.floats(1.0, 3.0))
def test_the_same_work_over_a_longer_time_takes_more_energy_at_less_power(factor: float) -> None:
    gemm = Gemm("up", 4096, 4096, 4096, "bf16")
    time_s = duration_s(gemm, GPU)
    short_j, long_j = kernel_j(gemm, GPU, time_s), kernel_j(gemm, GPU, factor * time_s)
    assert long_j >= short_j
    assert long_j / (factor * time_s) <= short_j / time_s * (1 + 1e-12)


def test_a_byte_of_a_kernel_without_flops_costs_hbm_energy() -> None:
    one, two = (kernel_j(Stream("add", nbytes), GPU, 1.0) for nbytes in (1e9, 2e9))
    assert two - one == pytest.approx(1e9 * 3.1e-11)


def test_a_gpu_whose_optimizer_runs_on_the_host_waits_and_a_copy_communicates() -> None:
    assert kernel_j(HostUpdate("adam", 1e9), GPU, 2.0) == 2 * idle_w(GPU)
    assert kernel_j(Copy("out", 1e9, "device_to_host"), GPU, 2.0) == 2 * communication_w(GPU)
    assert idle_w(GPU) < communication_w(GPU) < compute_w(GPU) < GPU.tdp_w


def test_a_node_of_eight_h100_at_their_tdp_draws_what_was_measured_at_most() -> None:
    # 8.48 kW, Latif et al., arXiv 2412.08602.
    assert 8 * (GPU.tdp_w + node_w(GPU)) == pytest.approx(8480, rel=0.01)


def test_a_server_of_eight_a100_without_its_gpus_draws_what_was_measured() -> None:
    # AcmeTrace server_power.pkl and gpu_power_seren.pkl: 4,851 W less 8 x 395 W, and 5,418 W less 8 x 437 W.
    assert 8 * node_w(gpu("a100-80gb-sxm")) == pytest.approx((4851 - 8 * 395 + 5418 - 8 * 437) / 2, rel=0.1)


@pytest.mark.parametrize("name", names("gpus"))
def test_a_flop_in_half_the_bits_takes_less_energy(name: str) -> None:
    device = load("tests/small.yaml", [f"gpu={name}", f"training.precision={_sixteen(name)}"]).gpu
    energies = {key: flop_j(device, key) for key in device.peak_flop_per_s}
    assert all(0.05e-12 < energy < 20e-12 for energy in energies.values()), energies
    if "fp8" in energies:
        assert energies["fp8"] < energies["bf16"]


def _sixteen(name: str) -> str:
    return "fp16" if name == "v100-sxm2" else "bf16"
