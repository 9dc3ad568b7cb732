"""Plan files: read, checked, and turned into scenarios of the layouts that are tried."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sim.decide.catalogue import MIXES, mix, prices
from sim.decide.laws import LAWS
from sim.decide.plan import MIX_TOLERANCE, Plan, PlannedLayout
from sim.errors import SimError
from sim.program.check import problems
from sim.registry import unknown
from sim.spec.assemble import Files, Overrides, keys, overridden, parts_of, without
from sim.spec.check import check, num_gpus
from sim.spec.find import find
from sim.spec.gpu import Gpu, peak_in
from sim.spec.layout import Layout
from sim.spec.mistakes import validated
from sim.spec.model import Model
from sim.spec.scenario import Scenario
from sim.spec.source import Node, locate, planted
from sim.spec.stack import Stack
from sim.spec.topology import Fabric, FabricSpec
from sim.spec.training import Training

PARTS = ("gpu", "topology", "stack", "model")
"""Of a plan: those of a scenario, read in the same way."""


@dataclass(frozen=True)
class Planned:
    """A plan with its cluster, and the model where the file gives one."""

    plan: Plan
    gpu: Gpu
    topology: FabricSpec
    fabric: Fabric
    stack: Stack
    model: Model | None

    @property
    def num_gpus(self) -> int:
        """Of the cluster."""
        return self.fabric.num_gpus

    @property
    def num_nodes(self) -> int:
        """Of the cluster."""
        return -(-self.fabric.num_gpus // self.fabric.gpus_per_node)

    @property
    def peak_flop_per_s(self) -> float:
        """Of a GPU in 16 bits, dense: what utilisation is counted against."""
        return peak_in(self.gpu, "bf16" if "bf16" in self.gpu.peak_flop_per_s else "fp16")

    def scenario(self, model: Model, planned: PlannedLayout, **changes: Any) -> Scenario:
        """The step of `model` in this layout.

        changes: of `Training`; precision, recompute and such.  Raises SimError where the layout cannot be, with each
        reason.
        """
        plan = self.plan
        pinned = {"seq_len": plan.training.seq_len, "global_batch": plan.training.global_batch}
        chosen = {"micro_batch": planned.micro_batch, "recompute": planned.recompute or "none"}
        training = Training.model_validate(
            self.stack.training | pinned | {"precision": plan.given.precision or plan.training.precision} | chosen
        )
        training = training.model_copy(update=changes)
        rest = planned.tp * planned.pp * planned.cp
        layout = Layout(
            tp=planned.tp,
            sequence_parallel=planned.tp > 1,
            cp=planned.cp,
            ep=planned.ep,
            pp=planned.pp,
            vpp=planned.vpp,
            dp=max(self.num_gpus // rest, 1),
            zero=planned.zero,
            schedule=planned.schedule or ("interleaved_1f1b" if planned.vpp > 1 else "1f1b"),
        )
        scenario = Scenario(
            name=plan.name,
            model=model,
            gpu=self.gpu,
            topology=self.topology,
            stack=self.stack,
            layout=layout,
            training=training,
        )
        refuse(scenario)
        return scenario


def refuse(scenario: Scenario) -> None:
    """Raise SimError with every reason why the scenario cannot be."""
    mistakes = check(scenario) or problems(scenario)
    if mistakes:
        raise SimError("; ".join(message for _, message in mistakes))


def load_plan(name: str | Path, overrides: Overrides = ()) -> Planned:
    """The plan of a file, found by path or by name; `overrides` as in `sim.load`.

    Raises SimError with every mistake at its place.
    """
    files, path = Files(), find("plans", str(name))
    root = _with_price(overridden(files.mapping(path), overrides))
    given = keys(root)
    found: list[Any] = [
        root.place.problem(part, "missing (allowed a name, or a mapping)")
        for part in ("gpu", "topology")
        if part not in given
    ]
    parts: dict[str, Any] = {}
    try:
        parts = parts_of(root, PARTS, files)
    except SimError as error:
        found += error.problems
    rest = without(root, *PARTS)
    named = Node({"name": Node(path.stem, root.place)} | keys(rest), root.place)
    plan: Plan | None = None
    try:
        plan = validated(Plan, named, "")
    except SimError as error:
        found += error.problems
    if plan is not None:
        found += [locate(root, at.split(".")).problem(at, message) for at, message in _mistakes(plan, parts)]
    if found:
        raise SimError(sorted(found, key=lambda problem: (problem.file, problem.line or 0, problem.column or 0)))
    assert plan is not None
    fabric = parts["topology"].build()
    assert num_gpus(parts["topology"]) == fabric.num_gpus
    return Planned(plan, parts["gpu"], parts["topology"], fabric, parts["stack"], parts.get("model"))


def _with_price(root: Node) -> Node:
    """The plan where a price that is given by name has its fields."""
    price = keys(root).get("price")
    if price is None or not isinstance(price.value, str):
        return root
    known = prices()
    if price.value not in known:
        raise SimError(price.place.problem("price", unknown("price", price.value, list(known))))
    return Node(keys(root) | {"price": planted(known[price.value], price.place)}, root.place)


def _mistakes(plan: Plan, parts: dict[str, Any]) -> Iterable[tuple[str, str]]:
    """What the fields say to each other that cannot be: (path, message)."""
    if plan.law not in list(LAWS):
        yield "law", unknown("scaling law", plan.law, list(LAWS))
    has_size = "model" in parts or plan.given.parameters is not None
    if plan.budget.tokens_per_parameter is not None and not has_size:
        yield "budget.tokens_per_parameter", "needs a size (allowed beside model or given.parameters)"
    if "model" in parts and plan.given.parameters is not None:
        yield "given.parameters", "model gives the size as well (allowed one of them)"
    if plan.deployment is not None and not hasattr(LAWS[plan.law] if plan.law in list(LAWS) else None, "loss"):
        yield "law", f"{plan.law} predicts no loss, which a deployment's target needs (allowed a parametric one)"
    if plan.data is not None:
        yield from _data_mistakes(plan)
    elif plan.given.mix is not None:
        yield "given.mix", "there is no data whose shares it could be (allowed with data.sources)"


def _data_mistakes(plan: Plan) -> Iterable[tuple[str, str]]:
    assert plan.data is not None
    names = list(plan.data.sources)
    for key in plan.given.mix or {}:
        if key not in names:
            yield f"given.mix.{key}", unknown("source", key, names)
    preset = plan.data.preset
    if preset is None:
        return
    if preset not in MIXES:
        yield "data.preset", unknown("mix", preset, list(MIXES))
        return
    published = mix(preset).shares
    for key in names:
        if key not in published:
            yield f"data.sources.{key}", unknown(f"source of the mix {preset}", key, list(published))
    given = {key: source.share for key, source in plan.data.sources.items() if source.share is not None}
    total = sum((published | given)[key] for key in names if key in published)
    if total > 1 + MIX_TOLERANCE:
        yield "data.sources", f"shares, those of {preset} where none is given, are {total:g}, allowed up to 1 in all"
