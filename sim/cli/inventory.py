"""The lines of `sim list`. Imported by the command that prints them, because what it needs is heavy."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

from pydantic import ValidationError

from sim import units
from sim.cost.collectives import ALGORITHMS
from sim.errors import SimError
from sim.longrun.hazards import unit_rate_per_s
from sim.program.table import SCHEDULES
from sim.spec import find, source
from sim.spec.gpu import Gpu
from sim.spec.model import Model
from sim.spec.parameters import parameters
from sim.spec.reliability import Failures
from sim.spec.run_cost import Power, Price
from sim.spec.saving import Storage
from sim.spec.sourced import num_estimated, numbers
from sim.spec.spikes import Spikes
from sim.spec.stack import Stack
from sim.spec.topology import FABRICS

Lines = Iterator[list[str]]

BILLION = 10**9


def models() -> Lines:
    """Shape and parameters of each model."""
    yield ["model", "parameters", "active", "layers", "hidden", "heads", "kv heads", "experts"]
    for name in find.names("models"):
        model = Model.model_validate(_content("models", name))
        counts = parameters(model)
        yield [
            name,
            f"{counts.total / BILLION:,.2f} B",
            f"{counts.active / BILLION:,.2f} B",
            str(model.num_layers),
            str(model.hidden),
            str(model.num_heads),
            "MLA" if model.latent_attention else str(model.num_kv_heads),
            f"{model.experts.num_experts}, top {model.experts.top_k}" if model.experts else "",
        ]


def gpus() -> Lines:
    """What each GPU can do, and how many of its numbers are estimates."""
    yield ["gpu", "bf16, dense", "memory", "HBM", "power", "estimated"]
    for name in find.names("gpus"):
        gpu = Gpu.model_validate(_content("gpus", name))
        peak = gpu.peak_flop_per_s.get("bf16")
        yield [
            name,
            units.text(peak, "FLOP/s") if peak else "",
            units.text(gpu.memory_bytes, "bytes"),
            units.text(gpu.hbm_bytes_per_s, "bytes/s"),
            units.text(gpu.tdp_w, "W"),
            f"{num_estimated(gpu)} of {len(numbers(gpu))} numbers" if gpu.estimated else "",
        ]


def stacks() -> Lines:
    """What each training framework does."""
    yield ["stack", "attention", "formats", "what it is"]
    for name in find.names("stacks"):
        stack = Stack.model_validate({"name": name} | _content("stacks", name))
        yield [name, " ".join(stack.attention), " ".join(stack.precisions), stack.title]


def topologies() -> Lines:
    """Size of each topology; one that cannot be read says why."""
    yield ["topology", "GPUs", "in a node", "fabric", "what it is"]
    for name in find.names("topologies"):
        try:
            content = dict(_content("topologies", name))
            family = str(content.pop("fabric", ""))
            fabric = FABRICS[family].model_validate(content).build()
        except (SimError, ValidationError, TypeError, ValueError) as error:
            yield [name, "", "", "", f"cannot be read: {str(error).splitlines()[0]}"]
        else:
            yield [name, f"{fabric.num_gpus:,}", f"{fabric.gpus_per_node:,}", family, _question("topologies", name)]


def scenarios() -> Lines:
    """The question that each scenario answers, and the command that does."""
    yield ["scenario", "play with", "question"]
    for name in find.names("scenarios"):
        try:
            content = _content("scenarios", name)
        except SimError as error:
            yield [name, "", f"cannot be read: {error.problems[0]}"]
            continue
        keys = content if isinstance(content, dict) else {}
        command = "sim sweep" if "sweep" in keys else "sim compare" if "variants" in keys else "sim run"
        yield [name, command, _question("scenarios", name)]


def plans() -> Lines:
    """The question that each plan answers."""
    yield ["plan", "question"]
    for name in find.names("plans"):
        yield [name, _question("plans", name)]


def schedules() -> Lines:
    """Pipeline schedules."""
    yield ["schedule", "what it is"]
    for name, schedule in SCHEDULES.items():
        yield [name, _summary(schedule)]


def collectives() -> Lines:
    """Collective algorithms and what they run."""
    yield ["algorithm", "collectives", "what it is"]
    for name, algorithm in ALGORITHMS.items():
        yield [name, " ".join(sorted(algorithm.ops)), _summary(algorithm)]


def longruns() -> Lines:
    """The question that each long run answers."""
    yield ["long run", "question"]
    yield from ([name, _question("longruns", name)] for name in find.names("longruns"))


def failures() -> Lines:
    """What interrupts jobs, and how often a node of eight GPUs and a job are hit."""
    yield ["failures", "components", "1/1,000 node-days", "what it is"]
    for name in find.names("failures"):
        entry = Failures.model_validate({"name": name} | _content("failures", name))
        nodes = [part for part in entry.components.values() if part.scope != "job"]
        rate = sum(unit_rate_per_s(entry, part) / part.nodes for part in nodes) * units.parse("1000 d", "s")
        yield [name, str(len(entry.components)), f"{rate:.3g}", entry.title]


def storage() -> Lines:
    """Where checkpoints go."""
    yield ["storage", "write", "read", "what it is"]
    for name in find.names("storage"):
        entry = Storage.model_validate({"name": name} | _content("storage", name))
        rates = (entry.write_bytes_per_s, entry.read_bytes_per_s)
        yield [name, *(units.text(rate, "bytes/s") for rate in rates), entry.title]


def spikes() -> Lines:
    """Loss spikes: how often, and what was done first."""
    yield ["spikes", "1/1,000 steps", "first remedy", "what it is"]
    for name in find.names("spikes"):
        entry = Spikes.model_validate({"name": name} | _content("spikes", name))
        yield [name, f"{entry.per_1000_steps:g}", entry.remedies[0].action, entry.title]


def prices() -> Lines:
    """Rents, with their dates."""
    yield ["price", "USD/GPU-hour", "date", "what it is"]
    for name in find.names("prices"):
        entry = Price.model_validate({"name": name} | _content("prices", name))
        yield [name, f"{entry.usd_per_gpu_hour:.2f}", entry.date, entry.title]


def power() -> Lines:
    """Draw of a GPU's share of its node."""
    yield ["power", "busy", "idle", "PUE", "what it is"]
    for name in find.names("power"):
        entry = Power.model_validate({"name": name} | _content("power", name))
        yield [name, units.text(entry.busy_w, "W"), units.text(entry.idle_w, "W"), f"{entry.pue:g}", entry.title]


def _content(kind: find.Kind, name: str) -> Any:
    return source.plain(source.read(find.find(kind, name)))


def _question(kind: find.Kind, name: str) -> str:
    """The comment that a file starts with."""
    first = find.find(kind, name).read_text(encoding="utf-8").splitlines()[:1]
    return first[0].removeprefix("#").strip() if first and first[0].startswith("#") else ""


def _summary(entry: object) -> str:
    """First line of what its file says."""
    text = inspect.getdoc(inspect.getmodule(type(entry)))
    assert text, f"the file of {entry} has no docstring"
    return text.splitlines()[0]


INVENTORY: dict[str, Callable[[], Lines]] = {
    "models": models,
    "gpus": gpus,
    "stacks": stacks,
    "topologies": topologies,
    "scenarios": scenarios,
    "plans": plans,
    "schedules": schedules,
    "collectives": collectives,
    "longruns": longruns,
    "failures": failures,
    "storage": storage,
    "spikes": spikes,
    "prices": prices,
    "power": power,
}
