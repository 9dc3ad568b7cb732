"""What a kind of measured kernel is: how its tables are read, what the cost model says, how constants are fitted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sim.registry import Registry
from sim.spec.gpu import Gpu
from sim.spec.topology import Floats


@dataclass(frozen=True)
class Rows:
    """Measured kernels that the cost model can predict, one a row.

    table: the kind's own columns, and these: `time_s` (measured), `format` (of `sim.spec.gpu.NumberFormat`, or
    finer where files say so, such as `fp8_block`), `region` (of shape, in words), `kernel` (who wrote it), and
    `is_training` (whether it is of the sizes that training uses, which the headline figures count). The index is that
    of the table that was read: the line of the file.
    skipped: why other rows were left out, and how many.
    """

    table: pd.DataFrame
    skipped: Mapping[str, int]


@dataclass(frozen=True)
class Fit:
    """What the rows of one GPU tell.

    constants: by the key that they have in a GPU's file (`gemm.bf16.flop_frac`), SI.  evidence: by such a key or its
    beginning, on what those constants were fitted, without the source of the data and the errors
    (`bf16, 2,400 shapes, m, n, k >= 512`).  ranges: the least and the largest side of a shape among the rows, by key
    (`gemm.bf16.range_m`).  carried: groups that the GPU's file lacks, such as another implementation of attention, and
    the group of the file from which they take what the rows do not tell (`attention.cudnn`: `attention.trtllm`).
    """

    constants: Mapping[str, float]
    evidence: Mapping[str, str]
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    carried: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Form:
    """One set of columns by which files of a kind are known; a file may have more, such as a window of attention.

    numbers: columns of finite numbers, 0 or more.  measured: the column of the measurement, above 0 (a time, or a
    rate).  words: columns of text.
    """

    numbers: tuple[str, ...]
    measured: str
    words: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns that a file of this form must have."""
        return (*self.words, *self.numbers, self.measured)


class Table(Protocol):
    """What files of known columns hold."""

    @property
    def name(self) -> str:
        """As it is registered, and as the files that ship begin."""
        ...

    @property
    def forms(self) -> tuple[Form, ...]:
        """Sets of columns of its files, each of one publisher; a file of this kind has all columns of one of them."""
        ...


class Kind(Table, Protocol):
    """One kind of kernel."""

    @property
    def training(self) -> str:
        """Which rows are `is_training`, in words: `m, n, k >= 512`."""
        ...

    def rows(self, table: pd.DataFrame) -> Rows:
        """Rows of a file; `table` has the columns of one of `forms` and those that the file has besides.

        Numbers are numbers (float64 or int64), words are strings; a column beyond the form is as pandas reads it.
        """
        ...

    def predicted_s(self, table: pd.DataFrame, gpu: Gpu) -> Floats:
        """What the cost model says at the clock of the measurement, mostly that of a short burst: (rows,), s."""
        ...

    def fit(self, table: pd.DataFrame, gpu: Gpu) -> Fit:
        """Constants of `gpu` fitted to rows of one GPU: all that the rows can tell, those of each format and kernel."""
        ...

    def halves(self, table: pd.DataFrame) -> Mapping[str, NDArray[np.bool_]]:
        """Splits by shape for errors out of sample: name -> rows to fit on; the error is read on the others."""
        ...


KINDS: Registry[Kind] = Registry("kind of kernel", "sim.calibrate.kinds")
