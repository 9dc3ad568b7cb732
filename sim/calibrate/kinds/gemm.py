"""Dense matrix products: sweeps of single launches by m, n, k and number format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sim.calibrate.fitting import Bounds, Prior, fit_relative
from sim.calibrate.kind import KINDS, Fit, Form, Rows
from sim.cost.gemm import Shapes, product_bytes, product_s, rates
from sim.spec.gpu import BYTES_PER_VALUE, GemmConstants, Gpu, NumberFormat, gemm_constants
from sim.spec.topology import Floats

FORMATS: Mapping[str, tuple[str, NumberFormat]] = {
    "float32": ("fp32", "fp32"),
    "tfloat32": ("tf32", "tf32"),
    "float16": ("fp16", "fp16"),
    "bfloat16": ("bf16", "bf16"),
    "fp8_static": ("fp8_static", "fp8"),
    "fp8_ootb": ("fp8", "fp8"),
    "fp8_block": ("fp8_block", "fp8"),
    "nvfp4": ("fp4", "fp4"),
    **{name: (name, name) for name in get_args(NumberFormat)},
}
"""Format of a file -> what it is called here, and the number format in which it computes."""

COMPUTED_IN: Mapping[str, NumberFormat] = dict(FORMATS.values())

FITTED_ON = set(get_args(NumberFormat))
"""Formats whose rows give the constants; `fp8_block` and `fp8_static` are read with those of `fp8`."""

TRAINING_SIDE = 512
"""Shortest side of the products that a training step is made of."""

OTHERS_SHARE = 0.1
"""All products with a shorter side count as much in a fit as this part of those of training sizes: enough to tell the
launch and the HBM rate, too little to move the rest."""

HOST_BOUND_S = 1e-3
"""Block-scaled products are dispatched by the host one by one in the sweeps of vLLM: none takes less than 55 us (H100)
to 250 us (GB200), most below 1 ms take as long as the smallest."""

SLOW_CAST = "CutlassFP8ScaledMM"
CAST_ROW_SM_S = 0.92e-6
CAST_VALUES_PER_SM_PER_S = 3.7e9
"""vLLM's kernel that scales activations token by token in front of this product takes an SM 0.92 us a row of up to
3,400 values, beyond that 0.27 ns a value: read off n = 32, where the product itself is short (H100, H200, B200)."""

PRODUCT_ALONE = "torch._scaled_mm"
"""Kernels that `sim profile` calls with operands in fp8 already: no cast is inside the time."""

LAYOUTS = ("TN", "NN", "NT")
"""Of operands, as BLAS names them, columns first: those of a linear layer's product forward, of its input gradient, and
of its weight gradient. One set of constants serves all; errors are shown for each."""

CAST_BYTES = 3.0
"""Any other kernel that casts activations is bound by memory: 16 bits read and 8 written, a value."""

MIN_ROWS = 20
"""Fewer products of training sizes in one format are no sweep."""

FITTED: Mapping[str, Bounds] = {
    "flop_frac": Bounds(0.8, 0.3, 1.0),
    "long_frac": Bounds(0.93, 0.3, 1.0),
    "hbm_frac": Bounds(0.8, 0.2, 1.0),
    "k_half": Bounds(100.0, 0.0, 1000.0),
    "wave_frac": Bounds(0.5, 0.0, 1.0),
    "tile_half": Bounds(3.0, 0.0, 60.0),
    "split_k": Bounds(300.0, 10.0, 5000.0),
    "launch_s": Bounds(3e-6, 0.0, 5e-5),
}

PRIORS = (Prior(index=list(FITTED).index("long_frac"), expected=0.93, spread=0.04, share=0.02),)
"""Few launches of a sweep are long, and they differ most between machines: A100, H100, H200 and B200 lose 5-10 %."""


@final
class GemmKind:
    """Dense products. `fp8` is one scale for each tensor or token, `fp8_block` one for each 128 x 128 values,
    `fp8_static` one known beforehand. Layers whose operands are narrower than 16 bits get 16-bit activations and cast
    them inside the measured time: with few columns n, fp8 takes four times as long as bf16, in proportion to m x k.
    The rows of `sim profile` (`torch._scaled_mm`) are the product alone.
    """

    name = "gemm"
    training = f"m, n, k >= {TRAINING_SIDE}"
    forms = (
        Form(numbers=("m", "n", "k"), measured="latency_ms", words=("kernel_source", "gemm_dtype")),
        Form(numbers=("m", "n", "k"), measured="latency", words=("kernel_source", "gemm_dtype")),
    )

    def rows(self, table: pd.DataFrame) -> Rows:
        """Products of a known format; times are in ms."""
        time_s = table["latency_ms" if "latency_ms" in table else "latency"].to_numpy(dtype=float) * 1e-3
        file_format = table["gemm_dtype"].astype(str)
        shortest = table[["m", "n", "k"]].min(axis=1)
        is_host_bound = (file_format == "fp8_block") & (time_s < HOST_BOUND_S)
        skipped: dict[str, int] = {}
        keep = np.ones(len(table), dtype=bool)
        for reason, is_out in (
            ("a format that the cost model does not know", ~file_format.isin(list(FORMATS))),
            ("an empty product", shortest < 1),
            (f"block-scaled and below {HOST_BOUND_S * 1e3:.0f} ms: the time of the host", is_host_bound),
        ):
            left_out = keep & is_out.to_numpy(dtype=bool)
            if left_out.any():
                skipped[reason] = int(left_out.sum())
            keep &= ~left_out
        found = table[["m", "n", "k"]].assign(
            time_s=time_s,
            format=file_format.map({name: ours for name, (ours, _) in FORMATS.items()}),
            region=_regions(table) + _layouts(table),
            kernel=table["kernel_source"].astype(str),
            is_training=shortest >= TRAINING_SIDE,
        )
        return Rows(found[keep], skipped)

    def predicted_s(self, table: pd.DataFrame, gpu: Gpu) -> Floats:
        """Time of the product in a short burst, and of the cast of its activations where the measurement has it, s."""
        predicted = np.empty(len(table))
        for name in table["format"].unique():
            chosen = (table["format"] == name).to_numpy(dtype=bool)
            rows, computed_in = table[chosen], COMPUTED_IN[name]
            constants = gemm_constants(gpu, computed_in)
            product = product_s(shapes_of(rows, computed_in), constants, rates(gpu, computed_in), burst=True)
            predicted[chosen] = product + _cast_s(rows, name, gpu, constants.launch_s)
        return predicted

    def fit(self, table: pd.DataFrame, gpu: Gpu) -> Fit:
        """Constants of each number format that has rows of training sizes. `in_run_frac` is not among them and has a
        source of its own: no burst tells it."""
        constants: dict[str, float] = {}
        evidence: dict[str, str] = {}
        ranges: dict[str, tuple[float, float]] = {}
        for name in sorted(FITTED_ON & set(table["format"])):
            rows = table[table["format"] == name]
            num_training = int(rows["is_training"].sum())
            computed_in = COMPUTED_IN[name]
            if num_training < MIN_ROWS or computed_in not in gpu.peak_flop_per_s:
                continue
            key = f"gemm.{computed_in}"
            found = _fitted(rows, name, gpu)
            constants |= {f"{key}.{field.removesuffix('_s')}": value for field, value in found.items()}
            said = f"{name}, {num_training:,} shapes with {self.training}, {len(rows) - num_training:,} others"
            evidence[key] = said
            ranges |= {f"{key}.{field}": range_ for field, range_ in _ranges(rows).items()}
        return Fit(constants, evidence, ranges)

    def halves(self, table: pd.DataFrame) -> Mapping[str, NDArray[np.bool_]]:
        """Up to the median of k, and of m, over the rows of training sizes."""
        training = table[table["is_training"].astype(bool)]
        return {
            f"{side} above its median": (table[side] <= training[side].median()).to_numpy(dtype=bool) for side in "km"
        }


def _regions(table: pd.DataFrame) -> NDArray[np.object_]:
    """What a product is used for goes with its sides: decoding has few rows, training none below 512."""
    shorter = table[["n", "k"]].min(axis=1)
    return np.select(
        [shorter < TRAINING_SIDE, table["m"] <= 64, table["m"] < TRAINING_SIDE],
        ["n or k below 512", "m <= 64", "m 65 to 511"],
        "m, n, k >= 512",
    ).astype(object)


def _layouts(table: pd.DataFrame) -> NDArray[np.object_]:
    """`, NT` where the file says the layout of the operands, else nothing."""
    said = table["layout"] if "layout" in table else [""] * len(table)
    return np.array([f", {layout}" if layout in LAYOUTS else "" for layout in said], dtype=object)


def shapes_of(rows: pd.DataFrame, computed_in: NumberFormat) -> Shapes:
    """Sides m, n and k of measured products, and the bytes that they move in a number format."""
    m, n, k = (rows[side].to_numpy(dtype=float) for side in "mnk")
    return Shapes(m, n, k, np.ones_like(m), product_bytes(m, n, k, computed_in))


def _cast_s(rows: pd.DataFrame, name: str, gpu: Gpu, launch_s: float) -> Floats:
    """Time of scaling and casting activations (m, k) ahead of the product, (rows,), s; 0 from 16 bits on, and where
    the product alone was measured."""
    m, k = (rows[side].to_numpy(dtype=float) for side in "mk")
    if BYTES_PER_VALUE[COMPUTED_IN[name]] >= BYTES_PER_VALUE["bf16"]:
        return np.zeros_like(m)
    by_bytes = CAST_BYTES * m * k / (gpu.hbm_bytes_per_s * gpu.memory_bound.elementwise.hbm_frac)
    by_row = np.hypot(m * CAST_ROW_SM_S, m * k / CAST_VALUES_PER_SM_PER_S) / gpu.num_sms
    is_slow = rows["kernel"].str.startswith(SLOW_CAST).to_numpy(dtype=bool)
    is_alone = rows["kernel"].str.startswith(PRODUCT_ALONE).to_numpy(dtype=bool)
    cast: Floats = np.where(is_alone, 0.0, launch_s + np.where(is_slow, by_row, by_bytes))
    return cast


def _fitted(rows: pd.DataFrame, name: str, gpu: Gpu) -> dict[str, float]:
    """Constants by the name of their field, fitted to rows of one format."""
    computed_in = COMPUTED_IN[name]
    is_training = rows["is_training"].to_numpy(dtype=bool)
    num_others = max(1, int((~is_training).sum()))
    weights = np.where(is_training, 1.0, min(1.0, OTHERS_SHARE * is_training.sum() / num_others))
    shapes, peak = shapes_of(rows, computed_in), rates(gpu, computed_in)
    cast_s = _cast_s(rows, name, gpu, 0.0)
    num_casts = (cast_s > 0.0).astype(float)
    ranges = _ranges(rows)

    def model(values: Floats) -> Floats:
        trial = _trial(values, ranges)
        return product_s(shapes, trial, peak, burst=True) + cast_s + num_casts * trial.launch_s

    values = fit_relative(
        model, rows["time_s"].to_numpy(dtype=float), list(FITTED.values()), weights=weights, priors=PRIORS
    )
    return dict(zip(FITTED, map(float, values), strict=True))


def _trial(values: Floats, ranges: Mapping[str, tuple[float, float]]) -> GemmConstants:
    return GemmConstants.model_validate(
        {**dict(zip(FITTED, map(float, values), strict=True)), "in_run_frac": 1.0, **ranges}
    )


def _ranges(rows: pd.DataFrame) -> dict[str, tuple[float, float]]:
    """The least and the largest side of products, by the name of the field."""
    return {f"range_{side}": (float(rows[side].min()), float(rows[side].max())) for side in "mnk"}


KINDS.register("gemm")(GemmKind())
