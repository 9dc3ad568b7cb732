"""From a row of a table of measured runs to a scenario, by rule, with what was assumed."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from sim.errors import SimError
from sim.program.check import problems
from sim.program.memory import memory
from sim.spec.assemble import Files
from sim.spec.flops import model_flop
from sim.spec.load import load_values
from sim.spec.scenario import Scenario
from sim.spec.source import Place
from sim.validation.cluster import add_cluster
from sim.validation.draft import CannotSimulate, Draft
from sim.validation.published import PublishedRun
from sim.validation.rules import Rule, shipped_rules
from sim.validation.shape import add_model
from sim.validation.split import add_layout, stage_layers
from sim.validation.steps import add_training

GIB = 2**30


@dataclass(frozen=True)
class Case:
    """A row and what became of it.

    group: the family of sources.  stack: the software stack.  scenario: None where `reason` says why not.
    assumed: what the source left open.  measured_s: the step; `measured_from` says from which column.
    measured_peak_bytes: memory of the fullest GPU, counted as `memory_counts` says: allocated, reserved or peak.
    """

    run: PublishedRun
    group: str
    stack: str
    assumed: tuple[str, ...] = ()
    scenario: Scenario | None = None
    reason: str = ""
    measured_s: float | None = None
    measured_from: str = ""
    measured_peak_bytes: float | None = None
    memory_counts: str = ""


@dataclass
class Maker:
    """Makes cases; what the scenarios name is read once."""

    rules: tuple[Rule, ...] = field(default_factory=shipped_rules)
    files: Files = field(default_factory=Files)

    def case(self, run: PublishedRun) -> Case:
        """The row as a scenario, or with the reason why there is none.

        Raises SimError where a cell holds no value of its column: that is the file's mistake, not the row's.
        """
        draft = Draft(run)
        rules = [rule for rule in self.rules if rule.matches(run)]
        stack = next((rule.stack for rule in reversed(rules) if rule.stack), "megatron-core")
        group = next((rule.group for rule in reversed(rules) if rule.group), run.cells["source"])
        measured_s = run.positive("step_time_derived_s")
        peak_bytes, counts = _peak_bytes(run)
        try:
            scenario = self._scenario(draft, stack, rules)
            measured_s, measured_from = _measured(draft, scenario, measured_s)
        except CannotSimulate as reason:
            return Case(run, group, stack, tuple(draft.assumed), reason=str(reason))
        return Case(
            run, group, stack, tuple(draft.assumed), scenario, "", measured_s, measured_from, peak_bytes, counts
        )  # fmt: skip

    def _scenario(self, draft: Draft, stack: str, rules: list[Rule]) -> Scenario:
        for rule in rules:
            if rule.skip:
                raise CannotSimulate(rule.skip)
        draft.values["stack"] = stack
        if not draft.run.text("framework"):
            draft.assume(f"stack {stack} (framework not stated)")
        for add in (add_model, add_cluster, add_layout, add_training):
            add(draft)
        for rule in rules:
            for path, value in rule.set.items():
                draft.put(path, value)
            for text in rule.assume:
                draft.assume(text)
        _settle(draft)
        if not draft.run.text("recompute") and draft.get("training.recompute") == "none":
            return self._that_fits(draft)
        return self._built(draft)

    def _that_fits(self, draft: Draft) -> Scenario:
        """Where the source does not say what is recomputed: the least with which the step fits in memory.

        It ran, so it fitted: nothing, the core of attention, whole layers, in this order.
        """
        scenario = None
        for kind in ("none", "selective", "full"):
            draft.put("training.recompute", kind)
            scenario = self._built(draft)
            if all(stage.fits for stage in memory(scenario)):
                draft.assume(f"recompute {kind} (not stated; the least that fits in memory)")
                return scenario
        draft.put("training.recompute", "none")
        draft.assume("recompute none (not stated; nothing fits in memory)")
        return self._built(draft)

    def _built(self, draft: Draft) -> Scenario:
        run = draft.run
        name = re.sub(r"[/\\\x00-\x1f]+", "-", run.case_id).lstrip(".") or "run"
        try:
            return load_values(
                draft.values, name, Place(run.file, run.line), files=self.files, checks=[problems]
            )  # fmt: skip
        except SimError as error:
            reasons = "; ".join(f"{each.path}: {each.message}" for each in error.problems)
            raise CannotSimulate(reasons) from None


def _settle(draft: Draft) -> None:
    """What depends on values that a rule may have set."""
    layout, training = draft.values["layout"], draft.values["training"]
    if layout.get("etp") == "tp":
        layout["etp"] = layout["tp"]
    num_layers, stages = draft.values["model"]["num_layers"], layout["pp"] * layout["vpp"]
    if layout["vpp"] > 1 and layout["pp"] > 1 and layout["schedule"] == "1f1b":
        layout["schedule"] = "interleaved_1f1b"
    uneven = stage_layers(num_layers, stages)
    if uneven is not None and "stage_layers" not in layout:
        layout["stage_layers"] = uneven
        draft.assume(f"{num_layers} layers over {stages} stages: {_layers_text(uneven)}")
    if training["recompute"] == "half_of_layers":
        training |= {"recompute": "full", "recompute_layers": max(1, num_layers // stages // 2)}
        training.pop("recompute_modules", None)
    if layout["dp"] * layout["cp"] == 1:
        layout["zero"] = 0


def _layers_text(uneven: list[int] | dict[str, int]) -> str:
    if isinstance(uneven, dict):
        return f"{uneven['first']} on the first, {uneven['last']} on the last, the rest evenly"
    return f"{min(uneven)} to {max(uneven)} each"


def _measured(draft: Draft, scenario: Scenario, measured_s: float | None) -> tuple[float, str]:
    """The step's time; where only FLOP/s are printed, from them with full attention, noted."""
    if measured_s is not None:
        return measured_s, "step_time_derived_s"
    tflops = draft.run.positive("tflops_per_gpu")
    if tflops is None:
        raise CannotSimulate("no step time, and nothing printed that it follows from")
    draft.assume("step time from the printed FLOP/s, taken as model FLOPs with full attention")
    training = scenario.training
    flop = training.global_batch * model_flop(scenario.model, training.seq_len, causal=False)
    return flop / (tflops * 1e12 * draft.needed("num_gpus", "the number of GPUs")), "tflops_per_gpu"


def _peak_bytes(run: PublishedRun) -> tuple[float | None, str]:
    """Published memory of the fullest GPU, and which of our three sums it is to be held against."""
    value, words = run.positive("peak_mem_gb"), run.text("mem_definition")
    if value is None:
        return None, ""
    unit = GIB if "gib" in words or "mib" in words else 1e9
    counts = (
        "peak" if "nvidia-smi" in words else "allocated" if "alloc" in words and "reserved" not in words else "reserved"
    )
    return value * unit, counts


def values_of(case: Case) -> dict[str, Any]:
    """Cells of the row by which errors are grouped."""
    run, scenario = case.run, case.scenario
    num_gpus = run.count("num_gpus") or 0
    return {
        "case_id": run.case_id,
        "source": case.group,
        "stack": case.stack,
        "gpu": run.text("gpu"),
        "kind": run.text("kind") or ("moe" if run.count("num_experts") else "dense"),
        "num_gpus": num_gpus,
        "tier": run.text("tier").upper() or "not stated",
        "gold": bool(run.flag("gold")),
        "scale_proxy": bool(run.flag("scale_proxy")),
        "precision": scenario.training.precision if scenario else run.text("precision"),
    }
