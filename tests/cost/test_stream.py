from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import sim
from sim.cost.kernels import Stream, duration_s, flop
from sim.cost.stream import StreamKind
from sim.spec.gpu import Gpu, ReductionRate, StreamConstants, StreamRate

CATALOGUE = Path(sim.__file__).parent / "catalog" / "gpus"
CONSTANTS = StreamConstants(
    elementwise=StreamRate(hbm_frac=0.8),
    norm=ReductionRate(hbm_frac=0.8, cached_row_bytes=8192.0),
    softmax=ReductionRate(hbm_frac=0.5, cached_row_bytes=8192.0),
    gather=StreamRate(hbm_frac=0.4),
    launch_s=1e-6,
)
GPU = Gpu.model_construct(name="round", hbm_bytes_per_s=1e12, memory_bound=CONSTANTS)


def load(name: str) -> Gpu:
    return Gpu.model_validate(yaml.safe_load((CATALOGUE / f"{name}.yaml").read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    ("kind", "moving_s"), [("elementwise", 1e-3), ("norm", 1e-3), ("softmax", 1.6e-3), ("gather", 2e-3)]
)
def test_a_stream_takes_launch_and_bytes_over_the_share_of_its_kind(kind: StreamKind, moving_s: float) -> None:
    # 8e8 bytes at 0.8, 0.8, 0.5 and 0.4 of 1e12 bytes/s.
    assert duration_s(Stream("kernel", 8e8, kind=kind), GPU) == pytest.approx(1e-6 + moving_s, rel=1e-9)


def test_launches_are_paid_one_by_one() -> None:
    assert duration_s(Stream("kernels", 8e8, launches=5), GPU) == pytest.approx(5e-6 + 1e-3, rel=1e-9)


@pytest.mark.parametrize(
    ("kind", "row_bytes", "passes"),
    [
        ("norm", 8192.0, 1.25),  # half of the second read, which is half of the bytes
        ("norm", 1e9, 1.5),
        ("softmax", 8192.0, 1.5),
        ("softmax", 1e9, 2.0),
        ("norm", 512.0, 1.0),
        ("softmax", 0.0, 1.0),
    ],
)
def test_rows_that_the_caches_do_not_hold_are_read_again(kind: StreamKind, row_bytes: float, passes: float) -> None:
    once = duration_s(Stream("kernel", 8e8, kind=kind), GPU) - 1e-6
    rows = duration_s(Stream("kernel", 8e8, kind=kind, row_bytes=row_bytes), GPU) - 1e-6
    assert rows == pytest.approx(passes * once, rel=1e-6)


@given(
    kind=st.sampled_from(["norm", "softmax"]),
    nbytes=st.floats(0, 1e12),
    short=st.floats(0, 1e7),
    more=st.floats(0, 1e7),
)
def test_longer_rows_of_the_same_bytes_never_take_less(
    kind: StreamKind, nbytes: float, short: float, more: float
) -> None:
    brief, long = (duration_s(Stream("k", nbytes, kind=kind, row_bytes=row), GPU) for row in (short, short + more))
    assert long >= brief * (1 - 1e-12)


def test_an_elementwise_kernel_has_no_rows() -> None:
    with pytest.raises(AssertionError, match="elementwise reduces no rows"):
        duration_s(Stream("add", 1e6, row_bytes=64.0), GPU)


def test_a_stream_executes_no_tensor_core_flop() -> None:
    assert flop(Stream("norm", 1e9)) == 0.0


# fp32 kernels of sitar-lab/NeuSight, scripts/asplos/data/dataset, on the PCIe cards of the same memory; too long for
# the 15-20 us of host time in each measurement to matter.


@pytest.mark.parametrize(
    ("name", "rows", "columns", "arrays", "measured_s"),
    [
        ("v100-sxm2", 393216, 2048, 3, 11.634266e-3),
        ("v100-sxm2", 131072, 16384, 2, 20.958035e-3),
        ("a100-40gb-sxm", 32768, 16384, 3, 4.699002e-3),
        ("a100-40gb-sxm", 131072, 8192, 2, 6.208448e-3),
        ("a100-80gb-pcie", 262144, 2048, 3, 3.812685e-3),
        ("a100-80gb-pcie", 65536, 16384, 2, 5.126477e-3),
    ],
)
def test_elementwise_kernels_of_neusight_are_met_within_three_percent(
    name: str, rows: int, columns: int, arrays: int, measured_s: float
) -> None:
    # add (two arrays read, one written) and relu (one and one).
    kernel = Stream("elementwise", arrays * rows * columns * 4.0)
    assert duration_s(kernel, load(name)) == pytest.approx(measured_s, rel=0.03)


@pytest.mark.parametrize(
    ("name", "rows", "columns", "measured_s"),
    [
        ("v100-sxm2", 262144, 2048, 7.826733e-3),
        ("v100-sxm2", 32768, 16384, 7.979827e-3),
        ("a100-40gb-sxm", 262144, 2048, 3.247398e-3),
        ("a100-40gb-sxm", 65536, 4096, 2.239846e-3),
        ("a100-40gb-sxm", 32768, 16384, 4.717382e-3),
        ("a100-80gb-pcie", 393216, 2048, 4.214035e-3),
        ("a100-80gb-pcie", 32768, 16384, 4.023354e-3),
    ],
)
def test_layer_norms_of_neusight_are_met_within_eight_percent_whatever_their_rows(
    name: str, rows: int, columns: int, measured_s: float
) -> None:
    kernel = Stream("layer norm", 2 * rows * columns * 4.0, kind="norm", row_bytes=columns * 4.0)
    assert duration_s(kernel, load(name)) == pytest.approx(measured_s, rel=0.08)


@pytest.mark.parametrize(
    ("name", "rows", "columns", "measured_s"),
    [
        ("v100-sxm2", 65536, 4096, 3.127443e-3),
        ("v100-sxm2", 32768, 16384, 11.024019e-3),
        ("a100-40gb-sxm", 65536, 4096, 1.691949e-3),
        ("a100-40gb-sxm", 32768, 8192, 1.712070e-3),
        ("a100-40gb-sxm", 32768, 16384, 6.091469e-3),
        ("a100-80gb-pcie", 65536, 4096, 1.453946e-3),
        ("a100-80gb-pcie", 32768, 16384, 5.021446e-3),
    ],
)
def test_softmaxes_of_neusight_are_met_within_twelve_percent_whatever_their_rows(
    name: str, rows: int, columns: int, measured_s: float
) -> None:
    kernel = Stream("softmax", 2 * rows * columns * 4.0, kind="softmax", row_bytes=columns * 4.0)
    assert duration_s(kernel, load(name)) == pytest.approx(measured_s, rel=0.12)


def test_the_triad_on_h100_reaches_what_azure_measured() -> None:
    # 2970 GB/s (Azure/AI-benchmarking-guide, ND_H100_v5).
    assert 1e10 / duration_s(Stream("triad", 1e10), load("h100-sxm")) == pytest.approx(2970e9, rel=0.002)
