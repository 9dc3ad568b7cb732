"""Tables: which numbers are compared, what each is called and defined as, and how it is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sim import units
from sim.program.memory import verdict
from sim.report.words import COMMUNICATION, EXPOSED, cause, in_order
from sim.results.result import SCALARS, Result

Row = Mapping[str, Any]

MILLION = 1e6

DASH = "-"
"""Written where a number does not exist."""


@dataclass(frozen=True)
class Column:
    """One column of the comparison: the keys of a row that it shows, its two-line head, its text, its definition."""

    key: str
    head: tuple[str, str]
    text: Callable[[Row], str]
    definition: str
    is_number: bool = True


def ranking(results: Sequence[Result]) -> list[Result]:
    """The fastest first; what does not fit into memory after all that fit."""
    return sorted(results, key=lambda result: (not result.fits, result.step_time_s))


def short_names(results: Sequence[Result]) -> list[str]:
    """Names without what all of them share: the variants of one file by their variant."""
    names = [result.name for result in results]
    if len(names) == 1:
        return [results[0].scenario.variant or names[0]]
    files = {result.scenario.name for result in results}
    return [
        result.scenario.variant or name if len(files) == 1 else name
        for result, name in zip(results, names, strict=True)
    ]


def percent(share: float | None) -> str:
    """A share of 0..1.

    >>> percent(0.5321), percent(None)
    ('53.2 %', '-')
    """
    return DASH if share is None else f"{100 * share:.1f} %"


def seconds(value_s: float) -> str:
    """Seconds with three decimals; less than 100 ms in ms.

    >>> seconds(12.3456), seconds(0.0123456), seconds(0.0)
    ('12.346 s', '12.35 ms', '0')
    """
    if value_s == 0:
        return "0"
    millisecond_s = units.parse("1 ms", "s")
    return f"{value_s / millisecond_s:.2f} ms" if abs(value_s) < 100 * millisecond_s else f"{value_s:.3f} s"


def seconds_beside(value_s: float, whole_s: float) -> str:
    """Seconds in the unit that suits the step of which they are a part, so that a column has one unit.

    >>> seconds_beside(0.0123, 20.0), seconds_beside(0.0123, 0.05), seconds_beside(0.0, 20.0)
    ('0.01 s', '12.3 ms', '0')
    """
    if value_s == 0:
        return "0"
    millisecond_s = units.parse("1 ms", "s")
    return f"{value_s / millisecond_s:.1f} ms" if whole_s < 100 * millisecond_s else f"{value_s:.2f} s"


def gibibytes(nbytes: float) -> str:
    """Bytes in GiB with one decimal."""
    return f"{nbytes / units.parse('1 GiB', 'bytes'):.1f} GiB"


def comparison_rows(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Plain values of each result in the order of `ranking`, all rows with the same keys: what `summary.csv` holds.

    Times in s, memory in bytes, shares in 0..1, None where a number does not exist.
    """
    ranked = ranking(results)
    kinds = sorted({kind for result in ranked for kind in result.exposed_s_by_kind})
    causes = in_order({name for result in ranked for name in result.breakdown_s})
    best_s = ranked[0].step_time_s if ranked else 0.0
    rows = []
    for result, name in zip(ranked, short_names(ranked), strict=True):
        row = {"name": name, "scenario": result.name, **_identity(result)}
        row |= _answers(result) | {"step_time_over_best": result.step_time_s / best_s - 1}
        row |= {f"exposed_s.{kind}": result.exposed_s_by_kind.get(kind, 0.0) for kind in kinds}
        row |= {f"overlap_fraction.{kind}": result.overlap_fraction_by_kind.get(kind) for kind in kinds}
        row |= {f"breakdown_s.{cause}": result.breakdown_s.get(cause, 0.0) for cause in causes}
        rows.append(row)
    return rows


def _identity(result: Result) -> dict[str, Any]:
    """What was played."""
    scenario = result.scenario
    layout, training = scenario.layout, scenario.training
    return {
        "model": scenario.model.name,
        "gpu": scenario.gpu.name,
        "topology": scenario.topology.name,
        "num_gpus": result.num_gpus,
        **{axis: getattr(layout, axis) for axis in ("tp", "cp", "ep", "etp", "dp", "pp", "vpp", "zero", "order")},
        "schedule": layout.schedule,
        "seq_len": training.seq_len,
        "global_batch": training.global_batch,
        "micro_batch": training.micro_batch,
        "recompute": training.recompute,
        "fidelity": result.fidelity,
    }


def _answers(result: Result) -> dict[str, Any]:
    """What came out."""
    return {
        **{name: getattr(result, name) for name in SCALARS},
        "capacity_bytes": result.scenario.gpu.memory_bytes,
        "free_bytes": min(stage.free_bytes for stage in result.memory),
        "verdict": verdict(result.memory),
        "exposed_s": sum(result.exposed_s_by_kind.values()),
    }


def exposed_s(row: Row, short: str) -> float:
    """Exposed seconds of one group of communication kinds, such as `DP`."""
    return sum(
        float(value)
        for key, value in row.items()
        if key.startswith("exposed_s.") and cause(EXPOSED + key.removeprefix("exposed_s.")).group.short == short
    )


def _exposed_column(short: str, name: str) -> Column:
    return Column(
        f"exposed {short}",
        ("exposed", short),
        lambda row: seconds_beside(exposed_s(row, short), row["step_time_s"]),
        f"Idle time of the compute stream, mean over ranks, while {name} ran and the next kernel waited for it.",
    )


def _verdict(row: Row) -> str:
    return f"{gibibytes(abs(row['free_bytes']))} {'free' if row['fits'] else 'short'}"


COLUMNS: tuple[Column, ...] = (
    Column("name", ("layout", ""), lambda row: str(row["name"]), "The scenario, or its variant.", is_number=False),
    Column(
        "step_time_s",
        ("step", "time"),
        lambda row: seconds_beside(row["step_time_s"], row["step_time_s"]),
        "From the start of the step to the end of its last operation, on any rank.",
    ),
    Column(
        "step_time_over_best",
        ("over", "best"),
        lambda row: f"{100 * row['step_time_over_best']:+.0f} %" if row["step_time_over_best"] else "best",
        "Step time over that of the fastest layout that fits, less one.",
    ),
    Column(
        "tokens_per_s_per_gpu",
        ("tokens/s", "/GPU"),
        lambda row: f"{row['tokens_per_s_per_gpu']:,.0f}",
        "Global batch x sequence length over step time and GPUs.",
    ),
    Column(
        "mfu",
        ("MFU", ""),
        lambda row: percent(row["mfu"]),
        "Model FLOPs (forward and backward, full attention, nothing counted twice for recomputation) over what the "
        "GPUs could do in the step at the dense peak of the datasheet.",
    ),
    Column(
        "bubble_fraction",
        ("bubble", ""),
        lambda row: percent(row["bubble_fraction"]),
        "Idle time of the compute stream between the first forward and the last backward pass for lack of upstream or "
        "downstream work, over the step, mean over ranks.",
    ),
    *(_exposed_column(group.short, group.name) for group in COMMUNICATION),
    Column(
        "overlap_fraction",
        ("over-", "lap"),
        lambda row: percent(row["overlap_fraction"]),
        "Time in which communication and compute both run over the time in which communication runs.",
    ),
    Column(
        "peak_bytes",
        ("peak", "GiB"),
        lambda row: gibibytes(row["peak_bytes"]).removesuffix(" GiB"),
        "Memory of the fullest GPU at its worst moment.",
    ),
    Column(
        "usd_per_token",
        ("USD", "/Mtok"),
        lambda row: DASH if row["usd_per_token"] is None else f"{row['usd_per_token'] * MILLION:,.2f}",
        "GPU-hours of a million trained tokens at the price of a GPU-hour.",
    ),
    Column(
        "fits",
        ("memory", "verdict"),
        _verdict,
        "What is left of the GPU's memory, or how much too small it is.",
    ),
)


def columns_for(rows: Sequence[Row]) -> list[Column]:
    """Columns that say something: exposed time of a kind that nobody has, and a price of nothing, are left out."""
    silent = {
        f"exposed {group.short}" for group in COMMUNICATION if not any(exposed_s(row, group.short) for row in rows)
    }
    silent |= {"usd_per_token"} if all(row["usd_per_token"] is None for row in rows) else set()
    return [column for column in COLUMNS if column.key not in silent]


def breakdown_rows(result: Result) -> list[tuple[str, str, float, float]]:
    """(cause, its meaning, seconds, share of the step); they add up to the step."""
    return [
        (cause(name).name, cause(name).meaning, result.breakdown_s[name], result.breakdown_s[name] / result.step_time_s)
        for name in in_order(result.breakdown_s)
    ]
