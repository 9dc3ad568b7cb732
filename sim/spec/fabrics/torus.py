"""Chips joined to their neighbours along two or three dimensions: Google's TPU pods."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Self, final

import numpy as np
from pydantic import Field, model_validator

from sim.spec.fabrics.access import block
from sim.spec.fabrics.cluster import Port, check_size, links_of
from sim.spec.fabrics.tables import Part, Table, routes_of, starts_of
from sim.spec.quantity import Count
from sim.spec.topology import FABRICS, FabricSpec, Ints, Links, Routes

DIMENSIONS = ("x", "y", "z")


@FABRICS.register("torus")
class Torus(FabricSpec):
    """Chips at the points of a grid, (x, y) or (x, y, z); x counts fastest, and a node is a row along x.

    wrap_around: for each dimension whether its last chip is joined to its first (a slice smaller than the pod is a mesh
    there). Two chips in a dimension have one cable either way.
    """

    chosen: ClassVar[frozenset[str]] = FabricSpec.chosen | {"shape"}

    shape: Annotated[tuple[Count, ...], Field(min_length=2, max_length=3, strict=False)]
    wrap_around: Annotated[tuple[bool, ...], Field(min_length=2, max_length=3, strict=False)]
    link: Port

    @model_validator(mode="after")
    def _dimensions_match(self) -> Self:
        if len(self.shape) != len(self.wrap_around):
            raise ValueError(
                f"wrap_around needs a value for each dimension (got {len(self.wrap_around)} for {len(self.shape)})"
            )
        check_size(math.prod(self.shape))
        return self

    def build(self) -> Table:
        """GPU x + X (y + Y z) is the chip at (x, y, z)."""
        return grid(self.shape, self.wrap_around, self.link, DIMENSIONS)


def grid(shape: Sequence[int], wrap_around: Sequence[bool], link: Port, tiers: Sequence[str]) -> Table:
    """Tables of a torus; each dimension is a tier of links and one of `tiers`."""
    num_gpus = math.prod(shape)
    gpus = np.arange(num_gpus)
    blocks, numbers = [], []
    stride = 1
    for size, wraps in zip(shape, wrap_around, strict=True):
        place = gpus // stride % size
        is_joined = (place + 1 < size) | (wraps and size > 2)
        lower = gpus[is_joined]
        upper = lower + np.where(place[is_joined] + 1 < size, 1, 1 - size) * stride
        blocks.append(block(lower, upper, link))
        numbers.append(np.cumsum(is_joined) - 1)
        stride *= size
    links = links_of(blocks, tuple(tiers[: len(shape)]))
    starts = [(there + number, back + number) for (there, back), number in zip(starts_of(blocks), numbers, strict=True)]
    lines = [_Line(size, wraps, *start) for size, wraps, start in zip(shape, wrap_around, starts, strict=True)]
    return Table(shape[0], {"gpu": num_gpus}, links, _Grid(tuple(lines), links).routes)


@dataclass(frozen=True)
class _Line:
    """A dimension. up, down: links of each chip (GPUs,) to the next one and from the next one to it."""

    size: int
    wraps: bool
    up: Ints
    down: Ints


@final
@dataclass(frozen=True)
class _Grid:
    """Dimension-ordered shortest routes: x first, then y, then z.

    Halfway around, both directions take half of the bytes. Source: dimension-order routing as in Dally and Towles,
    Principles and Practices of Interconnection Networks, 2004, chapter 8. Google does not publish the TPU's routing.
    """

    lines: tuple[_Line, ...]
    links: Links

    def routes(self, source: Ints, target: Ints) -> Routes:
        """One row for each hop, two where both directions are taken."""
        parts: list[Part] = []
        at, stride = source, 1
        for line in self.lines:
            here, there = at // stride % line.size, target // stride % line.size
            base = at - here * stride
            parts += _along(line, here, there, base, stride)
            at = base + there * stride
            stride *= line.size
        return routes_of(len(source), parts, self.links)


def _along(line: _Line, here: Ints, there: Ints, base: Ints, stride: int) -> list[Part]:
    """Rows of pairs from place `here` to place `there` of a dimension, both directions; `base` is its first chip."""
    if line.wraps and line.size > 2:
        ahead = (there - here) % line.size
        up_share = np.where(2 * ahead < line.size, 1.0, np.where(2 * ahead == line.size, 0.5, 0.0))
        back = (line.size - ahead) % line.size
    else:
        ahead, back = np.maximum(there - here, 0), np.maximum(here - there, 0)
        up_share = np.where(there > here, 1.0, 0.0)
    parts: list[Part] = []
    for steps, share, links, first in ((ahead, up_share, line.up, 0), (back, 1 - up_share, line.down, -1)):
        hops = np.where((share > 0) & (here != there), steps, 0)
        pair = np.repeat(np.arange(len(hops)), hops)
        step = np.arange(len(pair)) - np.repeat(np.cumsum(hops) - hops, hops)
        place = (here[pair] + first + (step if first == 0 else -step)) % line.size
        parts.append((pair, links[base[pair] + place * stride], share[pair]))
    return parts
