"""Partitions of numbered things by what cannot tell them apart: the steps of colour refinement.

A class is known by a number, its colour by a 64-bit hash of that number. What a thing is joined to is a bag: the sum
of the colours on its other side, each times a salt for the kind of join. Two bags that differ have equal sums with a
probability of 2 ** -64 times the power of two in the difference of their multiplicities; equal ones always have.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.spec.topology import Floats, Ints

Colours = NDArray[np.uint64]

GOLDEN = 0x9E3779B97F4A7C15
"""2 ** 64 over the golden ratio: the odd increment of splitmix64."""
LEAST_SLOTS = 2**10
SLOTS_PER_THING = 4
ROWS_AT_ONCE = 2**16
"""Rows of a bag whose colours fit in the cache."""


@dataclass(frozen=True)
class Partition:
    """Things in classes that are numbered in the order of their first members.

    number: class of each thing (things,).  first: first member of each class (classes,).
    """

    number: Ints
    first: Ints

    def __len__(self) -> int:
        return len(self.first)

    def colours(self) -> Colours:
        """Colour of each thing, (things,)."""
        return scrambled(np.arange(len(self.first)))[self.number]

    def counts(self) -> Ints:
        """Members of each class, (classes,)."""
        return np.bincount(self.number, minlength=len(self.first))


def scrambled(keys: Ints | Colours) -> Colours:
    """A hash of each integer: splitmix64 (Steele, Lea and Flood, Fast splittable pseudorandom number generators,
    OOPSLA 2014)."""
    state = keys.astype(np.uint64) * np.uint64(GOLDEN) + np.uint64(GOLDEN)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def salts(keys: Ints) -> Colours:
    """An odd factor for each key. Equal neighbours are hashed once, because rows come in long runs."""
    starts, lengths = _runs(keys)
    return np.repeat(_odd(keys[starts]), lengths)


def salts_of_numbers(values: Floats) -> Colours:
    """An odd factor for each number, as `number` tells them apart."""
    starts, lengths = _runs(values)
    return np.repeat(_odd(_number(values[starts])), lengths)


def _odd(keys: Ints) -> Colours:
    return scrambled(scrambled(keys)) | np.uint64(1)


def number(values: Floats) -> Ints:
    """A number as an integer key that ignores rounding in the twelfth digit. Hashes equal neighbours once."""
    starts, lengths = _runs(values)
    return np.repeat(_number(values[starts]), lengths)


def _number(values: Floats) -> Ints:
    is_plain = (values > 0) & (values < np.inf)
    logs = np.round(np.log(np.where(is_plain, values, 1.0)) * 1e11)
    keys: Ints = np.where(is_plain, logs, np.where(values > 0, 2.0**62, -(2.0**62))).astype(np.int64)
    return keys


def _runs(*columns: Ints | Floats | Colours) -> tuple[Ints, Ints]:
    """Start and length of each run of neighbours that are equal in all columns."""
    is_start = np.ones(len(columns[0]), dtype=bool)
    np.not_equal(columns[0][1:], columns[0][:-1], out=is_start[1:])
    for column in columns[1:]:
        is_start[1:] |= column[1:] != column[:-1]
    starts = np.flatnonzero(is_start)
    return starts, np.diff(starts, append=len(is_start))


def partition(*keys: Ints | Colours) -> Partition:
    """Things are alike where all keys are equal; each key (things,)."""
    starts, lengths = _runs(*keys)
    state = np.zeros(len(starts), dtype=np.uint64)
    for key in keys:
        state = scrambled(state ^ scrambled(key[starts]))
    runs = _classes(state)
    return Partition(np.repeat(runs.number, lengths), starts[runs.first])


def bags(size: int, index: Ints, other: Partition, joined: Ints, salt: Colours) -> Colours:
    """What each of `size` things is joined to, as a sum: order does not matter, multiplicity does.

    Row r joins thing index[r] to thing joined[r] of `other` in the way that salt[r] stands for.
    """
    total = np.zeros(size, dtype=np.uint64)
    colours = other.colours()
    for start in range(0, len(index), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        np.add.at(total, index[rows], colours[joined[rows]] * salt[rows])
    return total


def refined(old: Partition, *sums: Colours) -> Partition:
    """Members of a class stay together where each of their `bags` is equal."""
    state = old.colours()
    for each in sums:
        state = state * np.uint64(GOLDEN) + each
    return partition(state)


def _classes(colours: Colours) -> Partition:
    """Equal colours share a class.

    Colours are written to a table at a place that they hash to; of those that meet there the last one stays, and the
    others try again at another place. Without sorting, as most partitions have few classes of many members.
    """
    size = len(colours)
    first = np.empty(size, dtype=np.int64)
    left = np.arange(size)
    num_bits = max(LEAST_SLOTS, SLOTS_PER_THING * size).bit_length()
    table = np.empty(2**num_bits, dtype=np.int64)
    wanted = colours
    while len(left):
        slot = (wanted >> np.uint64(64 - num_bits)).astype(np.int64)
        table[slot[::-1]] = left[::-1]
        found = table[slot]
        is_told = colours[found] == colours[left]
        first[left[is_told]] = found[is_told]
        left, wanted = left[~is_told], scrambled(wanted[~is_told])
    is_first = first == np.arange(size)
    return Partition((np.cumsum(is_first) - 1)[first], np.flatnonzero(is_first))
