"""How the model is split over ranks. The only owner of rank arithmetic."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Discriminator, Field, Tag

from sim.spec.quantity import Count, Spec

Ints = NDArray[np.int64]

AXES = ("tp", "cp", "ep", "dp", "pp")


class StageLayers(Spec):
    """Layers on the first and the last virtual stage; the others share the rest evenly."""

    first: Annotated[int, Field(ge=0, strict=True)]
    last: Annotated[int, Field(ge=0, strict=True)]


def _whole(value: Any) -> Any:
    """Refuse what only equals a stage: in Python true is 1."""
    if isinstance(value, (bool, float)):
        raise ValueError(f"got {value!r}, allowed 0, 1, 2 or 3")  # noqa: TRY004 - pydantic collects ValueErrors
    return value


def _kind_of_stage_layers(value: Any) -> str | None:
    if isinstance(value, (tuple, list)):
        return "list"
    return "ends" if isinstance(value, (dict, StageLayers)) else None


LayersOfEach = tuple[Annotated[int, Field(ge=0, strict=True)], ...]
# The discriminator makes a mistake in one form speak of that form alone.
StageLayersField = Annotated[
    Annotated[LayersOfEach, Field(strict=False), Tag("list")] | Annotated[StageLayers, Tag("ends")],
    Discriminator(
        _kind_of_stage_layers,
        custom_error_type="stage_layers",
        custom_error_message="allowed a list with the layers of each virtual stage, or first and last",
    ),
]


class Layout(Spec):
    """Parallel axes and what goes with them. GPUs = tp x cp x dp x pp = etp x ep x edp x pp."""

    tp: Count = 1
    sequence_parallel: bool = False
    cp: Count = 1
    ep: Count = 1
    etp: Count = 1
    dp: Count | None = None
    pp: Count = 1
    vpp: Count = 1
    zero: Annotated[Literal[0, 1, 2, 3], BeforeValidator(_whole)] = 0
    schedule: str
    order: str = "tp-cp-ep-dp-pp"
    stage_layers: StageLayersField | None = None


def axis_sizes(layout: Layout) -> dict[str, int]:
    """Size of each attention axis: tp, cp, dp, pp. `dp` must be resolved."""
    assert layout.dp is not None
    return {"tp": layout.tp, "cp": layout.cp, "dp": layout.dp, "pp": layout.pp}


def num_ranks(layout: Layout) -> int:
    """tp x cp x dp x pp."""
    return math.prod(axis_sizes(layout).values())


def edp(layout: Layout) -> int:
    """Replicas of an expert: tp x cp x dp / (etp x ep)."""
    return num_ranks(layout) // (layout.pp * layout.etp * layout.ep)


def _grid(layout: Layout, sizes: dict[str, int]) -> tuple[list[str], Ints]:
    """Axes from the outermost to the innermost, and the ranks as an array with one dimension for each axis.

    An axis that the order leaves out has size 1.
    """
    given = layout.order.split("-")
    axes = [axis for axis in reversed([*given, *(axis for axis in AXES if axis not in given)]) if axis in sizes]
    ranks = np.arange(math.prod(sizes.values()), dtype=np.int64)
    return axes, ranks.reshape([sizes[axis] for axis in axes])


def _groups(axes: list[str], grid: Ints, along: Sequence[str]) -> Ints:
    """Ranks that differ only in the axes `along`: (groups, members), members ordered with the first axis innermost."""
    inner = [axes.index(axis) for axis in reversed(along)]
    outer = [index for index in range(len(axes)) if index not in inner]
    size = math.prod(grid.shape[index] for index in inner)
    return grid.transpose(outer + inner).reshape(-1, size)


def groups(layout: Layout, axis: str) -> Ints:
    """Communication groups of an axis: ranks as (groups, members), members ordered by their coordinate.

    tp, cp, dp, pp vary one attention axis; `dp_cp` both (gradients of dense parameters are reduced over it), `model`
    tp and pp, `world` all. ep, etp, edp vary one expert axis: the ranks of a pipeline stage, in their order within the
    layout, are cut into etp (innermost) x ep x edp. `dp_cp_copies` and `edp_copies` join two groups of dp_cp and of edp
    where each stage has a copy: those of a pipeline rank and of the one as far from the other end.

    >>> layout = Layout(tp=2, dp=2, pp=2, schedule="1f1b")
    >>> groups(layout, "dp").tolist()
    [[0, 2], [1, 3], [4, 6], [5, 7]]
    """
    sizes = axis_sizes(layout)
    axes, grid = _grid(layout, sizes)
    match axis:
        case "world":
            return np.arange(num_ranks(layout), dtype=np.int64).reshape(1, -1)
        case "dp_cp":
            return _groups(axes, grid, ["cp", "dp"])
        case "model":
            return _groups(axes, grid, ["tp", "pp"])
        case "dp_cp_copies" | "edp_copies":
            return _with_copies(layout, groups(layout, axis.removesuffix("_copies")))
        case "etp" | "ep" | "edp":
            within_stage = _groups(axes, grid, [name for name in reversed(axes) if name != "pp"])
            experts = within_stage.reshape(layout.pp, edp(layout), layout.ep, layout.etp)
            return _groups(["pp", "edp", "ep", "etp"], experts, [axis])
        case _:
            return _groups(axes, grid, [axis])


def _with_copies(layout: Layout, own: Ints) -> Ints:
    """Each group, (groups, members), of the first half of the pipeline with the one that mirrors it in the second."""
    pipelines = groups(layout, "pp")
    mirror = np.empty(num_ranks(layout), dtype=np.int64)
    mirror[pipelines] = pipelines[:, ::-1]
    own = own[pp_ranks(layout)[own[:, 0]] < layout.pp // 2]
    return np.concatenate([own, mirror[own]], axis=1)


def pp_ranks(layout: Layout) -> Ints:
    """Pipeline coordinate of every rank: (ranks,)."""
    members = groups(layout, "pp")
    coordinate = np.empty(num_ranks(layout), dtype=np.int64)
    coordinate[members] = np.arange(layout.pp)
    return coordinate


def num_stages(layout: Layout) -> int:
    """Virtual stages: pp x vpp. Stage s lives on pipeline rank s % pp as its chunk s // pp."""
    return layout.pp * layout.vpp


def layers_of_stages(layout: Layout, num_layers: int) -> tuple[range, ...]:
    """Layers of each virtual stage, in order.

    Raises ValueError, with the equation, where the layers cannot be divided as the layout says.

    >>> layers_of_stages(Layout(pp=4, schedule="1f1b", stage_layers=StageLayers(first=1, last=1)), 6)
    (range(0, 1), range(1, 3), range(3, 5), range(5, 6))
    """
    stages = num_stages(layout)
    given = layout.stage_layers
    match given:
        case None:
            counts = _even(num_layers, stages, f"{num_layers} layers over pp * vpp = {layout.pp} * {layout.vpp}")
        case StageLayers(first=first, last=last):
            rest = num_layers - first - last
            if stages < 2 or rest < 0:
                raise ValueError(f"first {first} and last {last} of {num_layers} layers need two stages or more")
            inner = _even(rest, stages - 2, f"{num_layers} - {first} - {last} = {rest} layers over the {stages} - 2")
            counts = [first, *inner, last]
        case _:
            counts = list(given)
            if len(counts) != stages or sum(counts) != num_layers:
                raise ValueError(
                    f"{len(counts)} entries with {sum(counts)} layers in all, but pp * vpp = {layout.pp} * "
                    f"{layout.vpp} = {stages} stages and {num_layers} layers"
                )
    ends = list(itertools.accumulate(counts, initial=0))
    return tuple(range(start, end) for start, end in itertools.pairwise(ends))


def _even(num_layers: int, stages: int, what: str) -> list[int]:
    if stages == 0 and num_layers == 0:
        return []
    if stages == 0 or num_layers % stages:
        raise ValueError(f"{what} = {stages} stages do not divide evenly; list the layers of each")
    return [num_layers // stages] * stages
