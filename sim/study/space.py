"""The space of a search: all layouts of a scenario's model on its cluster that may be played."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import astuple, dataclass, fields
from typing import Any, Literal, get_args

from sim.errors import SimError
from sim.program.balance import resolved
from sim.program.check import problems
from sim.program.schedule_file import SUFFIX, schedule_of
from sim.program.table import SCHEDULES
from sim.registry import unknown
from sim.spec.check import check, num_gpus
from sim.spec.layout import AXES, edp, replicas
from sim.spec.scenario import Scenario

Recompute = Literal["none", "selective", "full"]

MAX_MICRO_BATCH = 8
MAX_VPP = 8
FALLBACKS = ("1f1b", "interleaved_1f1b")
"""Schedules of points with which the scenario's own does not run."""


@dataclass(frozen=True, order=True)
class Choice:
    """A point of the space: what it sets in the scenario. dp follows from the cluster's GPUs."""

    pp: int
    vpp: int
    micro_batch: int
    tp: int
    cp: int
    ep: int
    etp: int
    zero: int
    recompute: str
    schedule: str
    order: str

    @property
    def text(self) -> str:
        """On one line, without the axes that split nothing.

        >>> Choice(2, 1, 1, 8, 1, 1, 1, 1, "none", "1f1b", "tp-cp-ep-dp-pp").text
        'tp8 pp2 mb1 zero1 none 1f1b tp-cp-ep-dp-pp'
        """
        sizes = [
            f"{axis}{size}" for axis in ("tp", "cp", "ep", "etp", "pp", "vpp") if (size := getattr(self, axis)) > 1
        ]
        return " ".join(
            [*sizes, f"mb{self.micro_batch}", f"zero{self.zero}", self.recompute, self.schedule, self.order]
        )


AXES_OF_A_SEARCH = tuple(field.name for field in fields(Choice))
DEFAULT_AXES = ("tp", "cp", "ep", "etp", "pp", "vpp", "zero", "micro_batch", "recompute")
"""Axes that are searched where none are named; schedules and rank orders multiply the space, and are asked for."""


def own_choice(scenario: Scenario) -> Choice:
    """The scenario's own point."""
    layout, training = scenario.layout, scenario.training
    return Choice(
        pp=layout.pp,
        vpp=layout.vpp,
        micro_batch=training.micro_batch,
        tp=layout.tp,
        cp=layout.cp,
        ep=layout.ep,
        etp=layout.etp,
        zero=layout.zero,
        recompute=training.recompute,
        schedule=layout.schedule,
        order=layout.order,
    )


def parsed_axes(texts: str | None) -> dict[str, tuple[Any, ...] | None]:
    """Axes by name, with the values to try: None for all. `tp,pp=1:2,order` names three.

    Raises SimError for an axis that does not exist, stands twice, or has a value of the wrong kind.

    >>> parsed_axes("tp,pp=1:2,recompute=none")
    {'tp': None, 'pp': (1, 2), 'recompute': ('none',)}
    """
    if texts is None:
        return dict.fromkeys(DEFAULT_AXES)
    found: dict[str, tuple[Any, ...] | None] = {}
    for text in texts.split(","):
        name, equals, values = (part.strip() for part in text.partition("="))
        if name not in AXES_OF_A_SEARCH:
            raise SimError(f"--axes: {unknown('axis', name, list(AXES_OF_A_SEARCH))}")
        if name in found:
            raise SimError(f"--axes: {name} stands twice (got {texts!r}, allowed once)")
        found[name] = tuple(_value(name, value) for value in values.split(":")) if equals else None
    return found


def _value(name: str, text: str) -> int | str:
    allowed: tuple[str, ...] = ()
    match name:
        case "recompute":
            allowed = get_args(Recompute)
        case "schedule":
            allowed = (*SCHEDULES, text if text.endswith(SUFFIX) else f"a {SUFFIX} file")
        case "order":
            return text
        case _:
            least = 0 if name == "zero" else 1
            if not text.isdecimal() or int(text) < least:
                raise SimError(f"--axes: {name} is a whole number (got {text!r}, allowed {least} or more)")
            return int(text)
    if text not in allowed:
        raise SimError(f"--axes: {unknown(name, text, list(allowed))}")
    return text


def candidates(scenario: Scenario, axes: Mapping[str, tuple[Any, ...] | None]) -> Iterator[Choice]:
    """Every combination of the axes' values whose sizes divide the cluster; others as in the scenario.

    Neighbours share their pipeline. Where the schedule is not searched, it is the first of the scenario's own and
    `FALLBACKS` that runs with a point's pipeline.
    """
    own, gpus, batch = own_choice(scenario), num_gpus(scenario.topology), scenario.training.global_batch

    def values(name: str, everything: tuple[Any, ...]) -> tuple[Any, ...]:
        if name not in axes:
            return (getattr(own, name),)
        return everything if axes[name] is None else tuple(axes[name] or ())

    sizes = _sizes(scenario, gpus)
    for pp in values("pp", _divisors(gpus)):
        if gpus % pp:
            continue
        for vpp in values("vpp", _chunks(scenario, pp)):
            for micro_batch in values("micro_batch", tuple(_divisors(batch, MAX_MICRO_BATCH))):
                for tp in values("tp", sizes["tp"]):
                    for cp in values("cp", sizes["cp"]):
                        if gpus % (pp * tp * cp):
                            continue
                        yield from _rest(scenario, own, axes, values, (pp, vpp, micro_batch, tp, cp), sizes)


def _rest(
    scenario: Scenario,
    own: Choice,
    axes: Mapping[str, tuple[Any, ...] | None],
    values: Any,
    pipeline: tuple[int, int, int, int, int],
    sizes: Mapping[str, tuple[int, ...]],
) -> Iterator[Choice]:
    pp, vpp, micro_batch, tp, cp = pipeline
    dp = num_gpus(scenario.topology) // (pp * tp * cp)
    if scenario.training.global_batch % (dp * micro_batch):
        return
    microbatches = scenario.training.global_batch // (dp * micro_batch)
    schedules = values("schedule", tuple(SCHEDULES)) if "schedule" in axes else _fitting(own, pp, vpp, microbatches)
    for schedule in schedules:
        for ep in values("ep", sizes["ep"]):
            for etp in values("etp", sizes["etp"]):
                for order in values("order", orders(tp, cp, ep, dp, pp)):
                    for zero in values("zero", (0, 1, 2, 3)):
                        for recompute in values("recompute", get_args(Recompute)):
                            yield Choice(pp, vpp, micro_batch, tp, cp, ep, etp, zero, recompute, schedule, order)


def _fitting(own: Choice, pp: int, vpp: int, microbatches: int) -> tuple[str, ...]:
    """The schedule of a point where schedules are not searched; none where no one runs."""
    for name in (own.schedule, *FALLBACKS):
        if schedule_of(name).refusal(pp, vpp, microbatches) is None:
            return (name,)
    return ()


def fitting_schedules(scenario: Scenario, choice: Choice) -> tuple[str, ...]:
    """The schedule with which a choice's pipeline runs in place of the scenario's own, where that does not run."""
    dp = num_gpus(scenario.topology) // (choice.pp * choice.tp * choice.cp)
    microbatches = scenario.training.global_batch // (dp * choice.micro_batch)
    return _fitting(own_choice(scenario), choice.pp, choice.vpp, microbatches)


def _divisors(number: int, most: int | None = None) -> tuple[int, ...]:
    """Divisors of a number, the least first, none above `most`.

    >>> _divisors(12), _divisors(12, 4)
    ((1, 2, 3, 4, 6, 12), (1, 2, 3, 4))
    """
    small = [each for each in range(1, math.isqrt(number) + 1) if number % each == 0]
    found = sorted({*small, *(number // each for each in small)})
    return tuple(each for each in found if most is None or each <= most)


def _sizes(scenario: Scenario, gpus: int) -> dict[str, tuple[int, ...]]:
    """Sizes of axes that could split the model."""
    model, seq_len = scenario.model, scenario.training.seq_len
    experts = model.experts
    return {
        "tp": _divisors(math.gcd(gpus, model.num_heads)),
        "cp": _divisors(math.gcd(gpus, seq_len)),
        "ep": (1,) if experts is None else _divisors(math.gcd(gpus, experts.num_experts)),
        "etp": (1,) if experts is None else _divisors(math.gcd(gpus, experts.ffn_hidden)),
    }


def _chunks(scenario: Scenario, pp: int) -> tuple[int, ...]:
    """Chunks on each rank: one without a pipeline; with layers that divide evenly, those that divide a rank's."""
    layers = scenario.model.num_layers
    if pp == 1:
        return (1,)
    if scenario.layout.stage_layers is None:
        return _divisors(layers // pp, MAX_VPP) if layers % pp == 0 else ()
    return tuple(range(1, min(MAX_VPP, max(1, (layers + 2) // pp)) + 1))


def orders(tp: int, cp: int, ep: int, dp: int, pp: int) -> tuple[str, ...]:
    """Rank orders that put some rank elsewhere: the axes that split something, in every order, innermost first.

    Where experts are split, ep stands left of dp; its place among the others changes nothing, as experts are cut along
    the ranks of a stage in the order of the rest.

    >>> orders(8, 1, 1, 8, 1)
    ('tp-dp', 'dp-tp')
    """
    sizes = {"tp": tp, "cp": cp, "dp": dp, "pp": pp}
    split = [axis for axis in AXES if axis != "ep" and sizes[axis] > 1]
    return tuple("-".join([*(["ep"] if ep > 1 else []), *axes]) for axes in _permutations(split))


def _permutations(axes: list[str]) -> Iterator[tuple[str, ...]]:
    if not axes:
        yield ()
    for index, axis in enumerate(axes):
        for rest in _permutations([*axes[:index], *axes[index + 1 :]]):
            yield (axis, *rest)


def scenario_of(scenario: Scenario, choice: Choice) -> Scenario:
    """The scenario with a point's layout, not yet checked. Tensor parallelism takes sequence parallelism along where
    the scenario has it, or has no tensor parallelism itself."""
    layout, training = scenario.layout, scenario.training
    dp = num_gpus(scenario.topology) // (choice.tp * choice.cp * choice.pp)
    with_sequence = choice.tp > 1 and (layout.sequence_parallel or layout.tp == 1)
    own = {name: getattr(choice, name) for name in ("tp", "cp", "ep", "etp", "pp", "vpp", "zero", "schedule", "order")}
    changed: dict[str, Any] = {"micro_batch": choice.micro_batch, "recompute": choice.recompute}
    if choice.recompute != "selective":
        changed["recompute_modules"] = None
    if choice.recompute != "full":
        changed["recompute_layers"] = None
    return scenario.model_copy(
        update={
            "layout": layout.model_copy(update=own | {"dp": dp, "sequence_parallel": with_sequence}),
            "training": training.model_copy(update=changed),
            "measured": None,
        }
    )


def legal(scenario: Scenario, choice: Choice) -> Scenario | str:
    """The point's scenario, as the loader would give it, or the first reason why there is none."""
    made = scenario_of(scenario, choice)
    for path, message in check(made) or problems(made):
        return f"{path}: {message}"
    return resolved(made)


def played_as(scenario: Scenario, choice: Choice) -> tuple[Any, ...]:
    """What decides the step of a legal point: equal for points that cannot be told apart when they are played.

    Axes of size 1 have no place in an order. Without replicas ZeRO-1 and ZeRO-2 shard nothing, as ZeRO-0.
    """
    layout = scenario.layout
    sizes = {"tp": layout.tp, "cp": layout.cp, "dp": layout.dp or 1, "pp": layout.pp}
    order = "-".join(axis for axis in choice.order.split("-") if sizes.get(axis, 1) > 1)
    has_replicas = replicas(layout, "dp_cp") > 1 or (scenario.model.experts is not None and edp(layout) > 1)
    zero = choice.zero if has_replicas or choice.zero == 3 else 0
    given = dict(zip(AXES_OF_A_SEARCH, astuple(choice), strict=True))
    return tuple((given | {"order": order, "zero": zero}).values())
