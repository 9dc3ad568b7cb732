"""Whether a scenario can be lowered: what its schedule, stages and algorithms ask for; and what a user should know."""

from __future__ import annotations

from collections.abc import Iterator

from sim.cost.collectives import ALGORITHMS
from sim.errors import SimError
from sim.program.lower import num_microbatches, schedule_table
from sim.program.routing import place_shares
from sim.program.schedule_file import SUFFIX, schedule_of
from sim.program.table import SCHEDULES, Pair, Table, in_flight
from sim.registry import unknown
from sim.spec.layout import layers_of_stages
from sim.spec.moe import expert_shares, is_drawn, is_even
from sim.spec.scenario import Scenario
from sim.spec.sourced import num_estimated, numbers
from sim.spec.training import recomputed_modules


def problems(scenario: Scenario) -> list[tuple[str, str]]:
    """Every reason why it cannot: (path in the scenario file, message with the numbers)."""
    found = [
        *_schedule(scenario),
        *_stages(scenario),
        *_mtp(scenario),
        *_experts(scenario),
        *_stack(scenario),
        *_algorithms(scenario),
    ]
    return found or list(_reshard(scenario))


def _schedule(scenario: Scenario) -> Iterator[tuple[str, str]]:
    layout = scenario.layout
    is_file = layout.schedule.endswith(SUFFIX)
    if not is_file and layout.schedule not in list(SCHEDULES):
        allowed = [*SCHEDULES, f"a {SUFFIX} file"]
        yield "layout.schedule", unknown("schedule", layout.schedule, allowed)
        return
    try:
        schedule = schedule_of(layout.schedule)
    except SimError as error:
        yield "layout.schedule", str(error)
        return
    numbers = (layout.pp, layout.vpp, num_microbatches(scenario))
    refusal = schedule.refusal(*numbers)
    if refusal is not None:
        yield "layout.schedule", refusal
        return
    yield from _expert_overlap(scenario)
    yield from _table(scenario, schedule_table(scenario))


def _table(scenario: Scenario, table: Table) -> Iterator[tuple[str, str]]:
    """What the cells of the schedule ask for."""
    layout = scenario.layout
    if layout.zero == 3 and any(isinstance(cell, Pair) for row in table for cell in row):
        message = "passes side by side would gather parameters in turns that hold each other up (allowed 0, 1 or 2)"
        yield "layout.zero", f"zero = 3, but {layout.schedule} runs passes in pairs: {message}"
    if layout.shard is not None and schedule_of(layout.schedule).placement == "both":
        message = f"{layout.schedule} keeps every stage twice, and shards over both (allowed without)"
        yield "layout.shard", f"shard = {layout.shard}, but {message}"


def _expert_overlap(scenario: Scenario) -> Iterator[tuple[str, str]]:
    """What Megatron-Core asks of overlap_moe_expert_parallel_comm (megatron/core/transformer/transformer_config.py)."""
    layout, training = scenario.layout, scenario.training
    path = "training.overlap.expert"
    if not training.overlap.expert:
        return
    if layout.ep == 1:
        yield path, "ep = 1, but there is communication of experts to hide with several ranks only (allowed ep > 1)"
    if layout.schedule not in ("1f1b", "interleaved_1f1b"):
        allowed = "interleaved_1f1b, or 1f1b with pp = 1; dualpipe and dualpipe_v have pairs already"
        yield path, f"passes are paired in the steady phase of 1f1b (got {layout.schedule}, allowed {allowed})"
    elif layout.pp > 1 and layout.vpp == 1:
        message = (
            f"pp = {layout.pp} and vpp = 1, but passes in pairs need several chunks on each rank (allowed vpp > 1)"
        )
        yield path, message
    if training.recompute == "full" or "moe" in recomputed_modules(training):
        yield path, "the experts' exchanges run again in the backward pass (allowed recompute without full and moe)"


def _reshard(scenario: Scenario) -> Iterator[tuple[str, str]]:
    """What stays whole from a forward to a backward pass belongs to one micro-batch; several need it by turns."""
    layout = scenario.layout
    if layout.reshard is False:
        schedule = schedule_of(layout.schedule)
        held = max(in_flight(schedule.table(layout.pp, layout.vpp, num_microbatches(scenario))))
        if held > 1:
            message = f"false, but {layout.schedule} has up to {held} passes in flight on a rank"
            yield "layout.reshard", f"{message} (allowed true, step, or a number)"


def _stages(scenario: Scenario) -> Iterator[tuple[str, str]]:
    """Between the first stage (embedding) and the last (head), a stage without layers would do nothing."""
    if scenario.layout.stage_layers == "balanced":
        return
    stages = layers_of_stages(scenario.layout, scenario.model.num_layers)
    empty = [stage for stage, layers in enumerate(stages) if not layers and 0 < stage < len(stages) - 1]
    if empty:
        yield "layout.stage_layers", f"stages {empty} hold no layers; only the first and the last may be empty"


def _mtp(scenario: Scenario) -> Iterator[tuple[str, str]]:
    model, layout = scenario.model, scenario.layout
    if model.mtp_layers and layout.zero == 3:
        yield "layout.zero", "zero = 3 would gather what mtp_layers share once more for each use (allowed 0, 1 or 2)"
    if model.mtp_layers and model.hidden % layout.tp:
        yield "layout.tp", f"tp = {layout.tp} does not divide hidden = {model.hidden}, which mtp_layers project to"


def _experts(scenario: Scenario) -> Iterator[tuple[str, str]]:
    layout = scenario.layout
    if scenario.model.experts is not None and layout.tp > 1 and not layout.sequence_parallel:
        yield (
            "layout.sequence_parallel",
            f"experts with tp = {layout.tp} need sequence_parallel: true, so that each rank routes its own tokens",
        )


def _stack(scenario: Scenario) -> Iterator[tuple[str, str]]:
    stack, precision = scenario.stack, scenario.training.precision
    if precision not in stack.precisions:
        allowed = ", ".join(stack.precisions)
        yield "training.precision", f"{stack.name} does not train in {precision} (allowed {allowed})"
    if "unfused" not in stack.attention and not set(stack.attention) & set(scenario.gpu.attention):
        known = ", ".join(scenario.gpu.attention)
        yield (
            "stack.attention",
            f"{stack.name} calls {', '.join(stack.attention)}, but {scenario.gpu.name} has constants for {known}",
        )


def _algorithms(scenario: Scenario) -> Iterator[tuple[str, str]]:
    for op, name in scenario.network.algorithms:
        able = [key for key, algorithm in ALGORITHMS.items() if op in algorithm.ops]
        if name != "auto" and name not in able:
            yield f"network.algorithms.{op}", unknown(f"{op} algorithm", name, ["auto", *able])


def _pace(scenario: Scenario) -> Iterator[str]:
    """Where no measured step says how kernels run in one."""
    stack, gpu = scenario.stack, scenario.gpu
    if gpu.architecture not in stack.pace:
        yield (
            f"No published step of {stack.name} on {gpu.architecture} GPUs is known: kernels take as long as in "
            "microbenchmarks, and a real step may take longer."
        )


def _sharding(scenario: Scenario) -> Iterator[str]:
    """What the scenario's framework, or another, does not do with ZeRO."""
    layout, stack = scenario.layout, scenario.stack
    if layout.zero >= 2 and layout.pp > 1:
        when = "once, in the last pass" if scenario.training.grad_sync == "last" else "for every micro-batch"
        yield (
            f"DeepSpeed refuses ZeRO-{layout.zero} with pipeline parallelism (deepspeed/runtime/pipe/engine.py); "
            f"stacks that allow it reduce gradients {when}, as is done here."
        )
    if layout.zero >= 2 and stack.name.startswith("megatron") and stack.name != "megatron-deepspeed":
        yield (
            f"{stack.name} shards as ZeRO-1 (its distributed optimizer); ZeRO-{layout.zero} there takes Megatron-FSDP "
            "or DeepSpeed, whose kernels and host differ."
        )


def notes(scenario: Scenario) -> tuple[str, ...]:
    """What is legal here but surprises elsewhere, and what the model leaves out of this scenario."""
    found = [*_sharding(scenario), *_routing_notes(scenario), *_pace(scenario)]
    jitter = scenario.conditions.jitter
    if jitter.per_rank or jitter.per_operation:
        found.append(
            "Jitter gives every rank times of its own, so no two ranks are alike and none is folded; times are one "
            f"draw (seed {scenario.seed}), not a mean."
        )
    if any(scenario.conditions.background.values()):
        found.append(
            "Background load is steady and never gives way; real jobs send in bursts and slow down on full links."
        )
    if getattr(scenario.topology, "routing", "spread") == "ecmp":
        seed = getattr(scenario.topology, "ecmp_seed", None) or 0
        found.append(
            "Routes are hashed: ranks that the hash tells apart are not folded, and times are one draw "
            f"(ecmp_seed {seed}), not a mean."
        )
    found += [
        f"{num_estimated(part)} of {len(numbers(part))} constants of {part.name} are estimates."
        for part in (scenario.gpu, scenario.topology, scenario.stack)
        if part.estimated
    ]
    return tuple(found)


def _routing_notes(scenario: Scenario) -> Iterator[str]:
    """What the router gives to whom."""
    experts, moe = scenario.model.experts, scenario.training.moe
    if experts is None:
        return
    shares = place_shares(scenario)
    if is_even(moe):
        yield "Every expert gets the same number of tokens; a real router is uneven."
    else:
        drawn = f"one draw (seed {scenario.seed})" if is_drawn(moe) else "as given"
        busiest = expert_shares(moe, experts, scenario.seed).max() * experts.num_experts
        over = f"the busiest of {len(shares)} ranks along ep has {shares.max() / shares.mean():.2f} times"
        yield (
            f"Loads of experts are {drawn}, the same in every layer and micro-batch: {over} the mean, "
            f"the busiest expert is asked for {busiest:.2f} times as often as an average one."
        )
    lost = 1 - shares.sum()
    if moe.capacity_factor is not None:
        what = f"drops {lost:.1%} of the copies of tokens" if lost > 0 else f"computes {-lost:.1%} more than it gets"
        yield f"With capacity_factor {moe.capacity_factor:g} a layer {what}."
