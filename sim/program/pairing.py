"""A forward and a backward pass side by side: pairs in a table, and two blocks as one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction

from sim.program.operations import Block, Collective, Compute, Operation, Send
from sim.program.table import Action, Cell, Kind, Pair, Table


def paired(table: Table) -> Table:
    """Each backward pass together with the forward pass that follows it on its rank.

    Megatron-Core's order for the overlap of expert communication: one forward pass more to warm up, then F of the next
    micro-batch and B of this one (get_pp_rank_microbatches in megatron/core/pipeline_parallel/schedules.py).

    >>> from sim.program.table import from_text, grid
    >>> print(grid(paired(from_text("0F0 0B0 0F1 0B1 0F2 0B2"))))
    0F0 0F1&0B0 0F2&0B1 0B2
    """
    return tuple(_paired_row(row) for row in table)


def _paired_row(row: tuple[Cell, ...]) -> tuple[Cell, ...]:
    found: list[Cell] = []
    for cell in row:
        match found[-1:], cell:
            case [Action(kind=Kind.B) as backward], Action(kind=Kind.F) as forward:
                found[-1] = Pair(forward, backward)
            case _:
                found.append(cell)
    return tuple(found)


@dataclass(frozen=True)
class _Part:
    """Operations of a block from one that waits for an exchange over ep to the next, by their index, and where they lie
    between the block's beginning 0 and end 1."""

    block: Block
    operations: tuple[int, ...]
    middle: Fraction


def side_by_side(forward: Block, backward: Block) -> Block:
    """Both blocks on one compute stream, in turn from one exchange over ep to the next, the backward pass first.

    While one side waits for its exchange, the other computes. In a layer of experts that is MLP(B) MLP(W) MLP(F)
    ATTN(B) ATTN(W) ATTN(F), beside the dispatch and the combine of F and of B (arXiv 2412.19437 figure 4; run of
    TransformerLayerSchedulePlan in megatron/core/models/common/model_chunk_schedule_plan.py). A side with fewer
    exchanges spreads its parts evenly; without any it is one part. Both sides send at the end, as they began together.
    """
    # Sorting keeps the order of equals: the backward pass first.
    parts = sorted([*_parts(backward), *_parts(forward)], key=lambda part: part.middle)
    place: dict[tuple[int, int], int] = {}
    operations: list[Operation] = []
    for part in parts:
        for index in part.operations:
            before = [place[id(part.block), other] for other in part.block.operations[index].after]
            place[id(part.block), index] = len(operations)
            operations.append(replace(part.block.operations[index], after=tuple(sorted(before))))
    last = max(index for index, each in enumerate(operations) if isinstance(each.payload, Compute))
    sides = (forward, backward)
    sends = []
    for side in sides:
        send = side.sends[0]
        sends.append(None if send is None else len(operations))
        if send is not None:
            before = [place[id(side), other] for other in side.operations[send].after]
            place[id(side), send] = len(operations)
            operations.append(Operation(side.operations[send].payload, tuple(sorted({*before, last}))))

    def placed(side: Block, indices: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(place[id(side), index] for index in indices)

    return Block(
        operations=tuple(operations),
        entries=tuple(entry for side in sides for entry in placed(side, side.entries)),
        sends=tuple(sends),
        tail=tuple(index for side in sides for index in placed(side, side.tail)),
    )


def _parts(block: Block) -> list[_Part]:
    """The block without its send, cut before each operation that waits for an exchange over ep."""
    cuts: list[list[int]] = [[]]
    for index, operation in enumerate(block.operations):
        payloads = [block.operations[other].payload for other in operation.after]
        if cuts[-1] and any(isinstance(each, Collective) and each.kind == "ep" for each in payloads):
            cuts.append([])
        if not isinstance(operation.payload, Send):
            cuts[-1].append(index)
    return [
        _Part(block, tuple(indices), Fraction(2 * number + 1, 2 * len(cuts))) for number, indices in enumerate(cuts)
    ]
