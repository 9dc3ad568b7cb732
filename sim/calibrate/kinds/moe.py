"""Fused mixture-of-experts operators of inference frameworks: gather, up (and gate), activation, down, combination."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Literal, NamedTuple, final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sim.calibrate.fitting import Bounds, Prior, fit_relative
from sim.calibrate.kind import KINDS, Fit, Form, Rows
from sim.cost.grouped_gemm import FusedMoe, Load, Machine, fused_moe_s
from sim.errors import Problem, SimError
from sim.spec.gpu import BYTES_PER_VALUE, FusedMoeRate, Gpu, GroupedFormat, GroupedKernel, NumberFormat, peak_in
from sim.spec.topology import Floats

FORMATS: Mapping[str, GroupedFormat] = {"bfloat16": "bf16", "float16": "bf16", "fp8": "fp8", "fp8_block": "fp8_block"}
"""Format of a file -> what it is called here; both 16-bit formats run at one rate."""

COMPUTED_IN: Mapping[GroupedFormat, NumberFormat] = {"bf16": "bf16", "fp8": "fp8", "fp8_block": "fp8"}
STANDS_IN: Mapping[GroupedFormat, tuple[GroupedFormat, ...]] = {
    "bf16": ("bf16",),
    "fp8": ("fp8", "fp8_block"),
    "fp8_block": ("fp8_block", "fp8"),
}
"""Formats of the same tensor-core rate, the first that a GPU has constants for."""

WRITTEN_BY: Mapping[str, GroupedKernel] = {
    "min_latency": "trtllm",
    "torch_flow": "cutlass",
    "cutlass": "cutlass",
    "deepgemm": "cutlass",
    "trtllm": "trtllm",
    "triton": "triton",
    "fused_moe": "triton",
}
"""Part of a kernel's name in a file -> who wrote it, the first that is found. TensorRT-LLM's own `torch_flow` runs
CUTLASS, except for few tokens."""

UNNAMED: GroupedKernel = "cutlass"
"""Whose a kernel is taken to be that is called otherwise: what most frameworks fall back on."""

POWER_LAW = r"power_law_(?P<alpha>\d+(?:\.\d+)?)"
TRAINING_ROWS = 64
"""Rows an expert on average: a training step has hundreds (fine-grained experts) to thousands, decoding a few."""
REGION_EDGES = (16, 64, 256)
TILES: tuple[Literal[64, 128], ...] = (64, 128)
DRAWS = 10
MIN_ROWS = 20
MAX_FIT_ROWS = 2500
OTHERS_SHARE = 0.1
"""All operators with fewer rows an expert count as much in a fit as this part of those of training sizes."""

UNGATED_TOP_K = 22
UNGATED_SIDES = (2688, 1856)
"""Nemotron-3 (top-22 of 512 experts; 2688 x 1856) squares a ReLU and has no gate: by FLOP, vLLM's tables have two
products there. sglang 0.5's were taken with a gate."""

FITTED: Mapping[str, Bounds] = {
    "flop_frac": Bounds(0.5, 0.02, 1.0),
    "k_half": Bounds(100.0, 1.0, 3000.0),
    "hbm_frac": Bounds(0.8, 0.1, 1.0),
    "cached_bytes": Bounds(40e6, 1e6, 500e6),
    "rows_per_read": Bounds(300.0, 10.0, 20000.0),
    "columns_per_read": Bounds(300.0, 10.0, 20000.0),
    "move_hbm_frac": Bounds(0.7, 0.1, 1.0),
    "launch_s": Bounds(2e-5, 1e-6, 2e-4),
    "token_s": Bounds(3e-9, 1e-10, 1e-7),
}

_EXPECTED = {
    "k_half": (200.0, 0.7),
    "hbm_frac": (0.8, 0.2),
    "cached_bytes": (45e6, 0.4),
    "rows_per_read": (300.0, 0.7),
    "columns_per_read": (300.0, 0.7),
    "move_hbm_frac": (0.6, 0.4),
}
PRIORS = tuple(Prior(list(FITTED).index(name), *known, share=0.05) for name, known in _EXPECTED.items())
"""Half of a sweep seldom tells all constants: (expected, spread of the logarithm). The L2 has 40 to 126 MB; 300 rows
or columns are a few tiles; the rest is what the 16-bit operators of four GPUs say on average."""


class Routed(NamedTuple):
    """What the routing gives the measured rank, on average over draws: rows and experts with rows, rows rounded up to
    64 and to 128 expert by expert, and tokens with at least one copy here."""

    rows: float
    experts: float
    padded_64: float
    padded_128: float
    tokens: float


@cache
def routed(num_tokens: int, num_experts: int, top_k: int, ep: int, alpha: float) -> Routed:
    """Load of the busiest of `ep` ranks that share `num_tokens` tokens; `alpha` 0 spreads them evenly.

    Otherwise each expert's share follows x^-alpha between 1 and 0.8 tokens (0.01 and 2 where there are fewer copies
    than experts), at most one copy a token and expert. The measurement averages over five draws, this over ten fixed
    ones. Source: ai-dynamo/aiconfigurator, collector/helper.py (`power_law_logits_v3`, `balanced_logits`).
    """
    copies = num_tokens * top_k
    if alpha == 0.0:
        each = copies / num_experts
        active = num_experts // ep if each >= 1.0 else max(round(copies / ep), 1)
        loads = np.full((1, active), max(each, 1.0))
        return _summed(loads, min(num_tokens, copies / ep))
    busiest = _busiest(_power_law(num_tokens, num_experts, top_k, alpha), ep)
    missed = np.prod(1.0 - busiest / num_tokens, axis=1)
    return _summed(busiest, float(num_tokens if ep == 1 else num_tokens * (1.0 - missed.mean())))


def _summed(loads: Floats, tokens: float) -> Routed:
    padded = [float((np.ceil(loads / tile - 1e-9) * tile).sum(axis=1).mean()) for tile in TILES]
    rows, experts = loads.sum(axis=1).mean(), (loads > 0).sum(axis=1).mean()
    return Routed(float(rows), float(experts), padded[0], padded[1], tokens)


def _power_law(num_tokens: int, num_experts: int, top_k: int, alpha: float) -> Floats:
    """(draws, experts) copies of tokens."""
    copies = num_tokens * top_k
    low, high = (1.0, 0.8 * num_tokens) if copies > num_experts else (0.01, 2.0)
    spread = np.random.default_rng(0).random((DRAWS, num_experts))
    power = 1.0 - alpha
    shares = ((high**power - low**power) * spread + low**power) ** (1.0 / power)
    loads: Floats = np.round(shares / shares.sum(axis=1, keepdims=True) * copies)
    excess = np.maximum(loads - num_tokens, 0.0).sum(axis=1, keepdims=True)
    room = np.maximum(num_tokens - loads, 0.0)
    scale = excess / np.maximum(room.sum(axis=1, keepdims=True), 1.0)
    filled: Floats = np.minimum(loads, num_tokens) + room * np.minimum(scale, 1.0)
    return filled


def _busiest(loads: Floats, ep: int) -> Floats:
    """(draws, experts of a rank) of the rank with the most copies in each draw."""
    by_rank = loads.reshape(len(loads), ep, -1)
    chosen: Floats = by_rank[np.arange(len(loads)), by_rank.sum(axis=2).argmax(axis=1)]
    return chosen


@final
class MoeKind:
    """Fused operators on one rank: `num_tokens` are those of the whole expert-parallel group, and the rank is the
    busiest of it. Weights are sharded by moe_tp_size (width) and moe_ep_size (experts)."""

    name = "moe"
    training = f"{TRAINING_ROWS} rows an expert or more"
    _numbers = ("num_tokens", "hidden_size", "inter_size", "topk", "num_experts", "moe_tp_size", "moe_ep_size")
    _words = ("kernel_source", "moe_dtype", "distribution")
    forms = (Form(_numbers, "latency_ms", _words), Form(_numbers, "latency", _words))

    def rows(self, table: pd.DataFrame) -> Rows:
        """Operators of a known format, kernel and distribution, with what the routing gives the rank."""
        kernel, alpha = _kernels(table["kernel_source"]), _alphas(table["distribution"])
        keep = np.ones(len(table), dtype=bool)
        skipped: dict[str, int] = {}
        for reason, is_out in (
            ("a format that the cost model does not know", ~table["moe_dtype"].isin(list(FORMATS))),
            ("neither balanced nor power_law_<exponent>", alpha.isna()),
            ("an empty side", table[list(self._numbers)].min(axis=1) < 1),
            ("experts or width that do not divide by their parallel size", _undivided(table)),
        ):
            left_out = keep & is_out.to_numpy(dtype=bool)
            if left_out.any():
                skipped[reason] = int(left_out.sum())
            keep &= ~left_out
        known = table[keep]
        measured_ms = known["latency_ms" if "latency_ms" in table else "latency"].astype(float)
        rows_each = known["num_tokens"] * known["topk"] / known["num_experts"]
        found = known[[*self._numbers, "distribution", "kernel_source"]].assign(
            time_s=measured_ms * 1e-3,
            format=known["moe_dtype"].map(FORMATS),
            kernel=kernel[keep],
            region=[f"{_region(each)}, {name}" for each, name in zip(rows_each, known["distribution"], strict=True)],
            is_training=rows_each >= TRAINING_ROWS,
            rows_each=rows_each,
        )
        return Rows(_with_load(found, alpha[keep]), skipped)

    def predicted_s(self, table: pd.DataFrame, gpu: Gpu) -> Floats:
        """As `sim.cost.grouped_gemm.fused_moe_s`, (rows,), s. A kernel or a block scale that the GPU has no constants
        for is predicted by another of the same number format.

        Raises SimError where there is none.
        """
        predicted = np.empty(len(table))
        for kernel, name in _groups(table):
            chosen = ((table["kernel"] == kernel) & (table["format"] == name)).to_numpy(dtype=bool)
            rate = _rate(gpu, kernel, name)
            predicted[chosen] = _Operators(table[chosen], name, gpu).time_s(rate)
        return predicted

    def fit(self, table: pd.DataFrame, gpu: Gpu) -> Fit:
        """Constants of each kernel and number format that has rows of training sizes."""
        constants: dict[str, float] = {}
        evidence: dict[str, str] = {}
        ranges: dict[str, tuple[float, float]] = {}
        for kernel, name in _groups(table):
            rows = table[(table["kernel"] == kernel) & (table["format"] == name)]
            num_training = int(rows["is_training"].sum())
            if num_training < MIN_ROWS or COMPUTED_IN[name] not in gpu.peak_flop_per_s:
                continue
            key = f"grouped_gemm.fused.{kernel}.{name}"
            found = _fitted(_thinned(rows), name, gpu)
            sides = _sides(rows[rows["is_training"].astype(bool)])
            ranges |= {f"{key}.{side}": (float(values.min()), float(values.max())) for side, values in sides.items()}
            constants |= {f"{key}.{_in_file(field)}": value for field, value in found.items()}
            evidence[key] = f"{num_training:,} operators with {self.training}, {len(rows) - num_training:,} others"
        return Fit(constants, evidence, ranges)

    def halves(self, table: pd.DataFrame) -> Mapping[str, NDArray[np.bool_]]:
        """Up to the median of rows an expert, and of an expert's width, over the rows of training sizes."""
        training = table[table["is_training"].astype(bool)]
        return {
            "rows an expert above the median": (table["rows_each"] <= training["rows_each"].median()).to_numpy(bool),
            "inter_size above its median": (table["inter_size"] <= training["inter_size"].median()).to_numpy(bool),
        }


class _Operators:
    """Rows of one kernel and format, ready for trial constants."""

    def __init__(self, table: pd.DataFrame, name: GroupedFormat, gpu: Gpu) -> None:
        column = {each: table[each].to_numpy(dtype=float) for each in table.columns if each in _NUMERIC}
        self._machine = Machine(peak_in(gpu, COMPUTED_IN[name]), gpu.hbm_bytes_per_s)
        self._by_tile = {tile: _operator(column, tile, BYTES_PER_VALUE[COMPUTED_IN[name]]) for tile in TILES}

    def time_s(self, rate: FusedMoeRate) -> Floats:
        """(rows,), s."""
        return np.asarray(fused_moe_s(self._by_tile[rate.tile_rows], rate, self._machine), dtype=float)


_NUMERIC = (
    *("num_tokens", "hidden_size", "width", "gates", "rows", "experts", "slots", "source_rows", "out_rows"),
    *(f"padded_{tile}" for tile in TILES),
)


def _operator(column: Mapping[str, Floats], tile: int, operand_bytes: float) -> FusedMoe:
    return FusedMoe(
        load=Load(column["rows"], column[f"padded_{tile}"], column["experts"], column["source_rows"]),
        slots=column["slots"],
        tokens=column["out_rows"],
        routed_tokens=column["num_tokens"],
        hidden=column["hidden_size"],
        width=column["width"],
        gates=column["gates"],
        operand_bytes=operand_bytes,
    )


def _with_load(found: pd.DataFrame, alpha: pd.Series[float]) -> pd.DataFrame:
    """Adds width, gates, and what the rank works on: rows, padded rows, experts, slots, tokens read and written.

    vLLM's Triton operator keeps buffers for the copies of all tokens and fills those for other ranks with zeros.
    sglang's gets the tokens that have a copy here, and computes all their top-k copies: its time hardly falls from one
    rank to four. TensorRT-LLM's block-scaled operator walks the buffers of all copies too: on 64 ranks it takes as long
    as moving them. Its others and CUTLASS's leave other ranks' copies out.
    """
    keys = zip(*(found[name].astype(int) for name in ("num_tokens", "num_experts", "topk", "moe_ep_size")), strict=True)
    load = pd.DataFrame(
        [routed(*key, each) for key, each in zip(keys, alpha, strict=True)], columns=Routed._fields, index=found.index
    )
    is_triton, is_sglang = found["kernel"] == "triton", found["kernel_source"].str.contains("sglang")
    is_blocked = (found["kernel"] == "trtllm") & (found["format"] == "fp8_block")
    walks_all, computes_all = (is_triton & ~is_sglang) | is_blocked, is_triton & is_sglang & (found["moe_ep_size"] > 1)
    local_slots = load["tokens"] * found["topk"]
    rows = load["rows"].mask(computes_all, local_slots)
    out_rows = found["num_tokens"].astype(float).mask(computes_all, load["tokens"])
    tails = {tile: local_slots + 0.5 * tile * load["experts"] for tile in TILES}
    return found.assign(
        width=found["inter_size"] / found["moe_tp_size"],
        gates=np.where(_is_ungated(found), 1.0, 2.0),
        rows=rows,
        experts=load["experts"],
        slots=rows.mask(walks_all, (found["num_tokens"] * found["topk"]).astype(float)),
        source_rows=np.minimum(rows, out_rows),
        out_rows=out_rows,
        **{f"padded_{tile}": load[f"padded_{tile}"].mask(computes_all, tails[tile]) for tile in TILES},
    )


def _is_ungated(found: pd.DataFrame) -> pd.Series[bool]:
    hidden, width = UNGATED_SIDES
    is_nemotron = (found["topk"] == UNGATED_TOP_K) | ((found["hidden_size"] == hidden) & (found["inter_size"] == width))
    return is_nemotron & ~found["kernel_source"].str.contains("sglang")


def _undivided(table: pd.DataFrame) -> pd.Series[bool]:
    ep, tp = table["moe_ep_size"].clip(lower=1), table["moe_tp_size"].clip(lower=1)
    return (table["num_experts"] % ep != 0) | (table["inter_size"] % tp != 0)


def _kernels(sources: pd.Series[str]) -> pd.Series[str]:
    by_source = {
        source: next((author for part, author in WRITTEN_BY.items() if part in source.lower()), UNNAMED)
        for source in sources.unique()
    }
    return sources.map(by_source)


def _alphas(distributions: pd.Series[str]) -> pd.Series[float]:
    """Exponent of a power law, 0 for balanced, NaN for others. An exponent of 1 has another integral: as 1.000001."""
    alpha = distributions.str.extract(f"^{POWER_LAW}$")["alpha"].astype(float).replace(1.0, 1.000001)
    return alpha.mask(distributions == "balanced", 0.0)


def _region(rows_each: float) -> str:
    if rows_each < REGION_EDGES[0]:
        return f"below {REGION_EDGES[0]} rows an expert"
    edge = max(edge for edge in REGION_EDGES if edge <= rows_each)
    return f"{edge} rows an expert or more"


def _groups(table: pd.DataFrame) -> list[tuple[GroupedKernel, GroupedFormat]]:
    return [
        (kernel, name)
        for kernel in dict.fromkeys(WRITTEN_BY.values())
        for name in COMPUTED_IN
        if ((table["kernel"] == kernel) & (table["format"] == name)).any()
    ]


def _rate(gpu: Gpu, kernel: GroupedKernel, name: GroupedFormat) -> FusedMoeRate:
    """Constants of the kernel, else of another in the same number format."""
    fused = gpu.grouped_gemm.fused
    authors = (kernel, *(author for author in fused if author != kernel))
    rates = (fused[author] for author in authors if author in fused)
    found = [by_format[each] for by_format in rates for each in STANDS_IN[name] if each in by_format]
    if not found:
        allowed = ", ".join(f"{author}.{each}" for author in fused for each in fused[author]) or "none"
        message = f"no constants of a fused operator in this format (got {name!r}, allowed {allowed})"
        raise SimError(Problem(message, path=f"{gpu.name}.grouped_gemm.fused"))
    return found[0]


def _sides(rows: pd.DataFrame) -> dict[str, Floats]:
    """Sides of both products of each row: rows of an expert, n and k."""
    hidden, width, gates = (rows[name].to_numpy(dtype=float) for name in ("hidden_size", "width", "gates"))
    each = (rows["rows"] / rows["experts"]).to_numpy(dtype=float)
    return {
        "range_rows": each,
        "range_n": np.concatenate([gates * width, hidden]),
        "range_k": np.concatenate([hidden, width]),
    }


def _thinned(rows: pd.DataFrame) -> pd.DataFrame:
    """At most MAX_FIT_ROWS of training sizes and as many others, evenly by time."""
    parts = []
    for _, part in rows.groupby("is_training"):
        order = part.sort_values("time_s", kind="stable")
        parts.append(order.iloc[np.unique(np.linspace(0, len(order) - 1, min(len(order), MAX_FIT_ROWS)).astype(int))])
    return pd.concat(parts)


def _fitted(rows: pd.DataFrame, name: GroupedFormat, gpu: Gpu) -> dict[str, float]:
    """Constants by field, with the tile of `TILES` under which they fit best."""
    operators = _Operators(rows, name, gpu)
    measured_s, is_training = rows["time_s"].to_numpy(dtype=float), rows["is_training"].to_numpy(dtype=bool)
    others = OTHERS_SHARE * is_training.sum() / max((~is_training).sum(), 1)
    weights = np.where(is_training, 1.0, others)
    best: dict[str, float] = {}
    least = np.inf
    for tile in TILES:
        values = fit_relative(
            lambda trial, tile=tile: operators.time_s(_trial(trial, tile)),  # type: ignore[misc]
            measured_s,
            list(FITTED.values()),
            weights=weights,
            priors=PRIORS,
        )
        error = float(np.average(np.abs(operators.time_s(_trial(values, tile)) / measured_s - 1.0), weights=weights))
        if error < least:
            least, best = error, {**dict(zip(FITTED, values.tolist(), strict=True)), "tile_rows": tile}
    return best


def _trial(values: Floats, tile: Literal[64, 128]) -> FusedMoeRate:
    nowhere = (0.0, 0.0)
    fields = dict(zip(FITTED, values.tolist(), strict=True))
    return FusedMoeRate.model_construct(**fields, tile_rows=tile, range_rows=nowhere, range_n=nowhere, range_k=nowhere)


def _in_file(field: str) -> str:
    return FusedMoeRate.model_fields[field].alias or field


KINDS.register("moe")(MoeKind())
