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


class CountedEnds(Spec):
    """What counts as a layer when layers are divided evenly: the embedding on the first virtual stage, the head with
    the loss on the last (Megatron-Core's account_for_embedding_in_pipeline_split and
    account_for_loss_in_pipeline_split)."""

    account_for_embedding: bool = False
    account_for_loss: bool = False


def _whole(value: Any) -> Any:
    """Refuse what only equals a stage: in Python true is 1."""
    if isinstance(value, (bool, float)):
        raise ValueError(f"got {value!r}, allowed 0, 1, 2 or 3")  # noqa: TRY004 - pydantic collects ValueErrors
    return value


def _reshard(value: Any) -> Any:
    """Refuse what is neither a switch, nor `step`, nor a number of ranks."""
    if isinstance(value, bool) or value == "step" or (isinstance(value, int) and value >= 2):
        return value
    raise ValueError(f"got {value!r}, allowed true, false, step, or the number of ranks (2 or more) of a smaller group")


def _kind_of_stage_layers(value: Any) -> str | None:
    if isinstance(value, (tuple, list)):
        return "list"
    if value == "balanced":
        return "balanced"
    if isinstance(value, CountedEnds) or (isinstance(value, dict) and CountedEnds.model_fields.keys() & value.keys()):
        return "counted"
    return "ends" if isinstance(value, (dict, StageLayers)) else None


LayersOfEach = tuple[Annotated[int, Field(ge=0, strict=True)], ...]
# The discriminator makes a mistake in one form speak of that form alone.
StageLayersField = Annotated[
    Annotated[LayersOfEach, Field(strict=False), Tag("list")]
    | Annotated[StageLayers, Tag("ends")]
    | Annotated[CountedEnds, Tag("counted")]
    | Annotated[Literal["balanced"], Tag("balanced")],
    Discriminator(
        _kind_of_stage_layers,
        custom_error_type="stage_layers",
        custom_error_message="allowed a list with the layers of each virtual stage, first and last, "
        "account_for_embedding and account_for_loss, or balanced",
    ),
]


CpMethod = Literal["all_gather", "ring", "ulysses", "ulysses_ring", "ulysses_all_gather"]
"""How attention sees the whole sequence under context parallelism. Transformer Engine's cp_comm_type calls the first
four all_gather, p2p, a2a and a2a+p2p (transformer_engine/pytorch/attention, context_parallel.py)."""

TWO_LEVEL: tuple[CpMethod, ...] = ("ulysses_ring", "ulysses_all_gather")


class Layout(Spec):
    """Parallel axes and what goes with them. GPUs = tp x cp x dp x pp = etp x ep x edp x pp.

    cp_inner: of the two-level methods, ranks of an inner group, which spread heads; blocks of the sequence go between
    the groups.  cp_balance: which parts of the sequence a rank has, see `sim.program.core`.
    shard: ranks of dp x cp over which ZeRO shards state; the groups of so many ranks are replicas of each other. All by
        default.
    reshard: ZeRO-3: whether the parameters of a layer are dropped after its forward pass and gathered again for the
        backward pass. `step`: they stay whole from the first forward to the last backward pass of the step.  A number:
        they stay sharded over so many neighbours of the shard group.
    reduce_hop: ranks of the first of the two all_to_all in which 4-bit gradients are reduced.
    """

    tp: Count = 1
    sequence_parallel: bool = False
    cp: Count = 1
    cp_method: CpMethod = "all_gather"
    cp_inner: Count | None = None
    cp_balance: Literal["zigzag", "none"] = "zigzag"
    ep: Count = 1
    etp: Count = 1
    dp: Count | None = None
    pp: Count = 1
    vpp: Count = 1
    zero: Annotated[Literal[0, 1, 2, 3], BeforeValidator(_whole)] = 0
    shard: Count | None = None
    reshard: Annotated[bool | int | Literal["step"], BeforeValidator(_reshard)] = True
    reduce_hop: Count | None = None
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


def cp_head_ranks(layout: Layout) -> int:
    """Ranks of a cp group over which Ulysses spreads the heads of attention: neighbours along cp.

    >>> cp_head_ranks(Layout(cp=8, cp_method="ulysses_ring", cp_inner=4, schedule="1f1b"))
    4
    """
    match layout.cp_method:
        case "ulysses":
            return layout.cp
        case "ulysses_ring" | "ulysses_all_gather":
            assert layout.cp_inner is not None
            return layout.cp_inner
        case _:
            return 1


def edp(layout: Layout) -> int:
    """Replicas of an expert: tp x cp x dp / (etp x ep)."""
    return num_ranks(layout) // (layout.pp * layout.etp * layout.ep)


def replicas(layout: Layout, axis: Literal["dp_cp", "edp"]) -> int:
    """Ranks that hold the same dense parameters (`dp_cp`) or experts (`edp`), before ZeRO shards anything."""
    if axis == "edp":
        return edp(layout)
    assert layout.dp is not None
    return layout.dp * layout.cp


def part_size(layout: Layout, axis: Literal["dp_cp", "edp"], ranks: int | None) -> int:
    """Ranks of an axis that belong to `ranks` of dp x cp (all where None): as large a share of it.

    Raises ValueError, with the equation, where that is no whole number.

    >>> part_size(Layout(dp=16, ep=4, schedule="1f1b"), "edp", 8)
    2
    """
    size, dense = replicas(layout, axis), replicas(layout, "dp_cp")
    if ranks is None:
        return size
    if dense % ranks:
        raise ValueError(f"{ranks} does not divide dp * cp = {layout.dp} * {layout.cp} = {dense}")
    if size % (dense // ranks):
        raise ValueError(
            f"experts have edp = {size} replicas, which {dense} / {ranks} = {dense // ranks} groups do not divide"
        )
    return size // (dense // ranks)


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


TOGETHER = {"dp_cp": ("cp", "dp"), "model": ("tp", "pp"), "stage": ("tp", "cp", "dp")}
"""Groups that several attention axes vary."""


def groups(layout: Layout, axis: str) -> Ints:
    """Communication groups of an axis: ranks as (groups, members), members ordered by their coordinate.

    tp, cp, dp, pp vary one attention axis; `dp_cp` both (gradients of dense parameters are reduced over it), `model`
    tp and pp, `stage` all but pp, `world` all. cp_inner are the neighbours along cp over which heads are spread,
    cp_outer the ranks of equal place in them. ep, etp, edp vary one expert axis: the ranks of a pipeline stage, in
    their order within the layout, are cut into etp (innermost) x ep x edp. `dp_cp_copies` and `edp_copies` join two
    groups of dp_cp and of edp where each stage has a copy: those of a pipeline rank and of the one as far from the
    other end.

    Groups of `dp_cp` and `edp` have parts, named with a dot: `dp_cp.shard` (over which ZeRO shards), `dp_cp.replica`
    (ranks of equal position in different shard groups); within a shard group `dp_cp.reshard` (neighbours that hold the
    parameters after the forward pass), `dp_cp.hop` and `dp_cp.across` (both all_to_all of 4-bit gradients).

    >>> layout = Layout(tp=2, dp=2, pp=2, schedule="1f1b")
    >>> groups(layout, "dp").tolist()
    [[0, 2], [1, 3], [4, 6], [5, 7]]
    """
    if "." in axis:
        return _parts(layout, axis)
    if axis == "world":
        return np.arange(num_ranks(layout), dtype=np.int64).reshape(1, -1)
    if axis.endswith("_copies"):
        return _with_copies(layout, groups(layout, axis.removesuffix("_copies")))
    axes, grid = _grid(layout, axis_sizes(layout))
    if axis in ("cp_inner", "cp_outer"):
        inner = cp_head_ranks(layout)
        blocks = _groups(axes, grid, ["cp"]).reshape(-1, layout.cp // inner, inner)
        return _groups(["outer", "cp_outer", "cp_inner"], blocks, [axis])
    if axis in ("etp", "ep", "edp"):
        within_stage = _groups(axes, grid, [name for name in reversed(axes) if name != "pp"])
        experts = within_stage.reshape(layout.pp, edp(layout), layout.ep, layout.etp)
        return _groups(["pp", "edp", "ep", "etp"], experts, [axis])
    return _groups(axes, grid, TOGETHER.get(axis, (axis,)))


def _parts(layout: Layout, axis: str) -> Ints:
    """Parts of the groups of `dp_cp` or `edp`: neighbours, or ranks of equal position among neighbours."""
    name, part = axis.split(".")
    of: Literal["dp_cp", "edp"] = "edp" if name == "edp" else "dp_cp"
    members = groups(layout, of)
    shard = part_size(layout, of, layout.shard)
    match part:
        case "shard":
            return members.reshape(-1, shard)
        case "replica":
            return members.reshape(len(members), -1, shard).transpose(0, 2, 1).reshape(-1, members.shape[1] // shard)
        case "reshard":
            return members.reshape(-1, part_size(layout, of, int(layout.reshard)))
        case _:
            hop = part_size(layout, of, layout.reduce_hop)
            if part == "hop":
                return members.reshape(-1, hop)
            return members.reshape(-1, shard // hop, hop).transpose(0, 2, 1).reshape(-1, shard // hop)


def _with_copies(layout: Layout, own: Ints) -> Ints:
    """Each group, (groups, members), of the first half of the pipeline with the one that mirrors it in the second."""
    pipelines = groups(layout, "pp")
    mirror = np.empty(num_ranks(layout), dtype=np.int64)
    mirror[pipelines] = pipelines[:, ::-1]
    own = own[coordinates(layout, "pp")[own[:, 0]] < layout.pp // 2]
    return np.concatenate([own, mirror[own]], axis=1)


def coordinates(layout: Layout, axis: str) -> Ints:
    """Coordinate of every rank along an axis of `groups`: (ranks,)."""
    members = groups(layout, axis)
    coordinate = np.empty(num_ranks(layout), dtype=np.int64)
    coordinate[members] = np.arange(members.shape[1])
    return coordinate


def num_stages(layout: Layout) -> int:
    """Virtual stages: pp x vpp. Stage s lives on pipeline rank s % pp as its chunk s // pp."""
    return layout.pp * layout.vpp


def layers_of_stages(layout: Layout, num_layers: int) -> tuple[range, ...]:
    """Layers of each virtual stage, in order.

    Raises ValueError, with the equation, where the layers cannot be divided as the layout says. What `balanced` layers
    are depends on more than the layout: `sim.program.balance.resolved` lists them.

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
        case CountedEnds(account_for_embedding=embedding, account_for_loss=loss):
            counts = _counted(num_layers, stages, int(embedding), int(loss))
        case "balanced":
            raise AssertionError("balanced layers are not listed")
        case _:
            counts = list(given)
            if len(counts) != stages or sum(counts) != num_layers:
                raise ValueError(
                    f"{len(counts)} entries with {sum(counts)} layers in all, but pp * vpp = {layout.pp} * "
                    f"{layout.vpp} = {stages} stages and {num_layers} layers"
                )
    ends = list(itertools.accumulate(counts, initial=0))
    return tuple(range(start, end) for start, end in itertools.pairwise(ends))


def refuse_balanced(layout: Layout, num_layers: int) -> None:
    """Raise ValueError, with the equation, where layers cannot be balanced: only the ends may be without any."""
    stages = num_stages(layout)
    if num_layers < stages - 2:
        raise ValueError(
            f"{num_layers} layers do not reach for the stages between both ends: pp * vpp - 2 = {layout.pp} * "
            f"{layout.vpp} - 2 = {stages - 2}"
        )


def _counted(num_layers: int, stages: int, embedding: int, loss: int) -> list[int]:
    total = num_layers + embedding + loss
    counts = _even(total, stages, f"{num_layers} layers + {embedding} + {loss} = {total} over {stages}")
    counts[0] -= embedding
    counts[-1] -= loss
    if counts[0] < 0:
        raise ValueError(f"{total} over {stages} stages leaves no place for both ends on one stage")
    return counts


def _even(num_layers: int, stages: int, what: str) -> list[int]:
    if stages == 0 and num_layers == 0:
        return []
    if stages == 0 or num_layers % stages:
        raise ValueError(f"{what} = {stages} stages do not divide evenly; list the layers of each")
    return [num_layers // stages] * stages
