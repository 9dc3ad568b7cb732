"""Question 4: does it fit, so which ZeRO stage? State by closed form, whole memory and step by simulation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sim.decide.answer import Answer, Column, Effect, Grid, Step, Value
from sim.decide.layouts import LaidOut
from sim.decide.load import Planned, refuse
from sim.decide.ranking import Said
from sim.decide.wording import said
from sim.errors import SimError
from sim.program.lower import lower, num_microbatches
from sim.program.memory import memory
from sim.program.model_state import ModelState, sharded
from sim.results.result import Result
from sim.results.traffic import traffic
from sim.simulation import simulate
from sim.spec.conditions import built_fabric
from sim.spec.parameters import parameters
from sim.spec.scenario import Scenario

QUESTION = "Does it fit, so which ZeRO stage?"
ZERO_PAPER = "arXiv 1910.02054, figure 1 and section 7"
MEGATRON_MEMORY = "NVIDIA/Megatron-LM megatron/training/theoretical_memory_usage.py: 18, and 6 + 12 / dp"
PAPER_STATE = ModelState(2, 2, 12)
"""Bytes of a parameter: 16-bit weight and gradient; fp32 master copy and Adam's two moments."""
FP32_GRADIENTS = ModelState(2, 4, 12)
"""The same with gradients summed in fp32, as Megatron-LM and DeepSpeed's estimators have it."""

STAGES = (0, 1, 2, 3)
PAPER_TRAFFIC = (1.0, 1.0, 1.0, 1.5)
"""Data-parallel bytes over ZeRO-0's, with one micro-batch and no pipeline (section 7.2)."""

TIGHT = 0.02
"""Of the memory: the memory model is off by 1.4 % on average (sim/program/memory.py)."""

DEEPSPEED = "DeepSpeed refuses ZeRO-2 and 3 with a pipeline (deepspeed/runtime/pipe/engine.py)"
LEGALITY = {
    0: "all",
    1: "all: Megatron-LM's distributed optimizer, DeepSpeed",
    2: "Megatron-FSDP, FSDP (SHARD_GRAD_OP), DeepSpeed without a pipeline",
    3: "FSDP, Megatron-FSDP, DeepSpeed without a pipeline",
}


@dataclass(frozen=True)
class Fitted:
    """The ZeRO stage that the plan goes on with, and its step."""

    zero: int
    result: Result
    answer: Answer


@dataclass(frozen=True)
class _Stage:
    """One stage on the chosen layout: its memory, data-parallel bytes and step; or why it cannot be."""

    zero: int
    peak_bytes: float | None = None
    fits: bool = False
    sent_bytes: float | None = None
    result: Result | None = None
    reason: str = ""


def sent_bytes(scenario: Scenario) -> float:
    """Data-parallel bytes that a rank sends in a step: an all_reduce sends its size twice, what scatters or gathers
    once.

    Times (n - 1) / n, which all have in common.
    """
    fabric = built_fabric(scenario)
    rows = traffic(lower(scenario, fabric, "folded"), scenario, fabric)
    return sum(
        row.bytes_per_step * (2 if row.op == "all_reduce" else 1)
        for row in rows
        if row.kind in ("dp_reduce", "dp_gather")
    )


def choose_zero(planned: Planned, laid: LaidOut, told: Said) -> Fitted:
    """The answer to the fourth question: the given stage, else the fastest that fits."""
    stages = [_played(laid.result.scenario, laid.result, zero, told) for zero in STAGES]
    fitting = [stage for stage in stages if stage.fits and stage.result is not None]
    least = fitting[0].zero if fitting else None
    given = planned.plan.given.zero
    chosen = laid.result.scenario.layout.zero if given is None else given
    result = stages[chosen].result
    if result is None:
        raise SimError(f"given.zero: ZeRO-{chosen} cannot be played on {laid.ranked.name}: {stages[chosen].reason}")
    layout, model = result.scenario.layout, result.scenario.model
    held = max(stage.parameters_bytes for stage in memory(_with_zero(result.scenario, 0))) / 2
    share = PAPER_STATE.optimizer_bytes / PAPER_STATE.total_bytes
    cautions = [f"ZeRO-{chosen} with pp = {layout.pp}: {DEEPSPEED}."] if chosen >= 2 and layout.pp > 1 else []
    free = 1 - result.peak_bytes / result.scenario.gpu.memory_bytes
    if free < 0:
        cautions.append("The chosen stage does not fit.")
    elif free < TIGHT:
        cautions.append(
            f"Only {free:.1%} of the memory is left, less than the memory model's error; take the next in the ranking."
        )
    least_text = f"The least stage that fits is ZeRO-{least}" if least is not None else "No stage fits"
    return Fitted(
        chosen,
        result,
        Answer(
            number=4,
            question=QUESTION,
            text=f"ZeRO-{chosen}: {said(result.peak_bytes, 'bytes')} of "
            f"{said(result.scenario.gpu.memory_bytes, 'bytes')} a "
            f"GPU, {'which fits' if result.fits else 'which does not fit'}. {least_text}. Of the 16 bytes a parameter, "
            f"{said(share, 'share')} are optimizer state.",
            values={
                "zero": chosen,
                "least_zero": least,
                "fits": result.fits,
                "peak_bytes": result.peak_bytes,
                "optimizer_share": share,
                "step_time_s": result.step_time_s,
            },
            grids=(
                state_table(
                    float(parameters(model).total),
                    planned.num_gpus,
                    "zero_whole",
                    f"State of {model.name}, DP over all GPUs",
                ),
                state_table(held, layout.dp or 1, "zero_rank", f"State of one GPU of this layout, DP {layout.dp}"),
                _stages_table(stages, chosen, layout.pp),
            ),
            steps=tuple(_steps(held, layout.dp or 1, chosen, result)),
            sensitivity=tuple(_sensitivity(held, layout.dp or 1, chosen)),
            cautions=tuple(cautions),
            is_given=given is not None,
        ),
    )


def _with_zero(scenario: Scenario, zero: int) -> Scenario:
    return scenario.model_copy(update={"layout": scenario.layout.model_copy(update={"zero": zero})})


def _played(base: Scenario, known: Result, zero: int, told: Said) -> _Stage:
    scenario = _with_zero(base, zero)
    try:
        refuse(scenario)
    except SimError as error:
        return _Stage(zero, reason=str(error))
    stages = memory(scenario)
    result = known if zero == base.layout.zero else simulate(scenario)
    told(f"ZeRO-{zero}: {result.step_time_s:.3f} s")
    peak = max(stage.peak_bytes for stage in stages)
    return _Stage(zero, peak, all(stage.fits for stage in stages), sent_bytes(scenario), result)


def state_table(num_parameters: float, dp: int, name: str, title: str) -> Grid:
    """Bytes of parameters, gradients and optimizer state on a GPU, by stage; and with the framework's fp32
    gradients."""
    rows: list[tuple[Value, ...]] = []
    for zero in STAGES:
        paper = sharded(PAPER_STATE, num_parameters, dp, zero)
        framework = sharded(FP32_GRADIENTS, num_parameters, dp, zero)
        rows.append(
            (
                f"ZeRO-{zero}",
                paper.parameters_bytes,
                paper.gradients_bytes,
                paper.optimizer_bytes,
                paper.total_bytes,
                paper.optimizer_bytes / paper.total_bytes,
                framework.total_bytes,
                PAPER_TRAFFIC[zero],
            )
        )
    return Grid(
        name,
        title,
        (
            Column("stage"),
            Column("parameters, 2 B", "bytes"),
            Column("gradients, 2 B", "bytes"),
            Column("optimizer, 12 B", "bytes"),
            Column("sum, 16 B", "bytes"),
            Column("optimizer's share", "share"),
            Column("sum with fp32 gradients, 18 B", "bytes"),
            Column("DP bytes, one micro-batch, no pipeline", "x"),
        ),
        tuple(rows),
    )


def _stages_table(stages: Sequence[_Stage], chosen: int, pp: int) -> Grid:
    """What each stage is on this layout: memory of everything, bytes sent, step."""
    base = stages[0]
    rows: list[tuple[Value, ...]] = []
    for stage in stages:
        refused = " (not DeepSpeed: a pipeline)" if stage.zero >= 2 and pp > 1 else ""
        ratio = stage.sent_bytes / base.sent_bytes if stage.sent_bytes is not None and base.sent_bytes else None
        step_s = stage.result.step_time_s if stage.result is not None else None
        more = step_s / base.result.step_time_s - 1 if step_s is not None and base.result is not None else None
        rows.append(
            (
                f"ZeRO-{stage.zero}",
                stage.peak_bytes,
                stage.fits,
                stage.sent_bytes,
                ratio,
                step_s,
                more,
                stage.reason or LEGALITY[stage.zero] + refused,
            )
        )
    return Grid(
        "zero_stages",
        "Each stage on this layout, simulated",
        (
            Column("stage"),
            Column("memory of a GPU", "bytes"),
            Column("fits"),
            Column("DP bytes a step", "bytes"),
            Column("of ZeRO-0", "x"),
            Column("step", "s"),
            Column("more than ZeRO-0", "share"),
            Column("who runs it"),
        ),
        tuple(rows),
        chosen=chosen,
        note="With accumulation ZeRO-3 gathers for each micro-batch, and ZeRO-2 reduces for each one; gradients and "
        "parameters may differ in format. Both make these factors other than the paper's 1, 1, 1 and 1.5.",
    )


def _steps(num_parameters: float, dp: int, zero: int, result: Result) -> Iterator[Step]:
    formula = ("16 P", "4 P + 12 P / N", "2 P + 14 P / N", "16 P / N")[zero]
    total = sharded(PAPER_STATE, num_parameters, dp, zero).total_bytes
    yield Step("state of a GPU", formula, f"P = {num_parameters:.4g}, N = {dp}", total, "bytes", ZERO_PAPER)
    formula = ("18 P", "6 P + 12 P / N", "2 P + 16 P / N", "18 P / N")[zero]
    total = sharded(FP32_GRADIENTS, num_parameters, dp, zero).total_bytes
    yield Step("with fp32 gradients", formula, f"P = {num_parameters:.4g}, N = {dp}", total, "bytes", MEGATRON_MEMORY)
    microbatches = num_microbatches(result.scenario)
    numbers = f"{microbatches} micro-batches, {result.scenario.training.recompute} recomputation"
    yield Step(
        "whole memory", "state + activations + buffers", numbers, result.peak_bytes, "bytes", "sim/program/memory.py"
    )


def _sensitivity(num_parameters: float, dp: int, zero: int) -> Iterator[Effect]:
    low, given, high = (
        sharded(PAPER_STATE, num_parameters, size, zero).total_bytes for size in (2 * dp, dp, max(dp // 2, 1))
    )
    yield Effect("replicas, twice and half", "state of a GPU", low, given, high, "bytes")
    fp32 = sharded(FP32_GRADIENTS, num_parameters, dp, zero).total_bytes
    yield Effect("gradients in 16 and in 32 bits", "state of a GPU", given, given, fp32, "bytes")
