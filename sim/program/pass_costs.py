"""What the passes of each pipeline rank cost, for schedules that are found for them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from sim.cost.pace import paced_s
from sim.program.held import stages_held
from sim.program.operations import Block, Compute
from sim.program.replication import replication
from sim.program.schedules.zb_auto import RankCosts
from sim.program.shapes import shapes
from sim.program.stage import (
    Hop,
    Unit,
    forward_block,
    input_gradient_block,
    units_of_stage,
    weight_gradient_block,
)
from sim.spec.layout import num_stages
from sim.spec.scenario import Scenario
from sim.spec.stack import pace_of


def rank_costs(scenario: Scenario) -> tuple[RankCosts, ...]:
    """Of each pipeline rank with one virtual stage, in s of compute; communication inside a stage is left out.

    All ranks get the median of each pass, as in Zero Bubble's implementation, which profiles its first steps
    (sail-sg/zero-bubble-pipeline-parallelism, avg_then_mid): a table made for a heavy last stage is not what they ran.
    """
    s, rep, training = shapes(scenario), replication(scenario), scenario.training
    stages = [units_of_stage(scenario, stage, s) for stage in range(num_stages(scenario.layout))]
    known: dict[tuple[Unit, ...], tuple[float, float, float]] = {}

    def passes(units: Sequence[Unit]) -> tuple[float, float, float]:
        blocks = (
            forward_block(units, rep, s, is_first=False, hop=Hop()),
            input_gradient_block(units, rep, s, training, hop=Hop()),
            weight_gradient_block(units, rep, is_last=False),
        )
        forward_s, input_s, weight_s = (_compute_s(block, scenario) for block in blocks)
        return forward_s, input_s, weight_s

    found = []
    for units, held in zip(stages, stages_held(scenario, stages, rep, s), strict=True):
        key = tuple(units)
        if key not in known:
            known[key] = passes(units)
        kept = held.kept.total_bytes
        found.append(RankCosts(*known[key], min(held.for_weights.total_bytes / kept, 1.0) if kept else 1.0))
    columns = ("forward", "input_gradient", "weight_gradient", "kept_frac")
    typical = RankCosts(*(statistics.median(getattr(each, column) for each in found) for column in columns))
    return (typical,) * len(found)


def _compute_s(block: Block, scenario: Scenario) -> float:
    gpu, pace = scenario.gpu, pace_of(scenario.stack, scenario.gpu)
    payloads = [operation.payload for operation in block.operations]
    return sum(
        paced_s(kernel, gpu, pace) for payload in payloads if isinstance(payload, Compute) for kernel in payload.kernels
    )
