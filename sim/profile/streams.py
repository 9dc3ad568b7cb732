"""Kernels that only move bytes, with nothing of theirs in the caches."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sim.profile.case import Case, Cell, Section, Size, milliseconds
from sim.profile.device import Call, Device

KEY = ("OPName", "Device", "B", "H", "dtype", "timing", "stream_kind", "nbytes", "row_bytes", "launches")

ROWS: dict[Size, tuple[int, ...]] = {
    "full": (256, 4096, 16384, 65536, 262144),
    "quick": (256, 16384, 65536),
    "tiny": (8,),
}
ROW_LENGTHS: dict[Size, tuple[int, ...]] = {
    "full": (1024, 2048, 3072, 4096, 5120, 8192, 12288, 16384, 32768, 131072),
    "quick": (1024, 4096, 16384),
    "tiny": (16,),
}
MAX_VALUES = 2**31 - 1
"""Beyond this many values in a tensor, kernels split into launches with 32-bit indices."""

INDEX_BYTES = 8
VALUE_BYTES = {"bfloat16": 2, "float32": 4}


@dataclass(frozen=True)
class Operation:
    """One call of PyTorch on B rows of H values.

    nbytes_by_value: read and written, bytes a value, by dtype.  has_rows: whether a kernel passes over its rows
    several times.  make: the call, with its buffers, from (torch, B, H, dtype, device).
    """

    name: str
    kind: str
    nbytes_by_value: Mapping[str, float]
    make: Callable[[Any, int, int, Any, str], Call]
    has_rows: bool = False
    launches: int = 1


def _drawn(torch: Any, rows: int, row: int, dtype: Any, where: str) -> Any:
    return torch.randn((rows, row), device=where, dtype=dtype)


def _add(torch: Any, rows: int, row: int, dtype: Any, where: str) -> Call:
    left, right, output = (_drawn(torch, rows, row, dtype, where) for _ in range(3))
    return lambda: torch.add(left, right, out=output)


def _copy(torch: Any, rows: int, row: int, dtype: Any, where: str) -> Call:
    values, output = (_drawn(torch, rows, row, dtype, where) for _ in range(2))
    return lambda: output.copy_(values)


def _cast(torch: Any, rows: int, row: int, dtype: Any, where: str) -> Call:
    """To the other of the two dtypes."""
    values = _drawn(torch, rows, row, dtype, where)
    output = values.to(torch.float32 if dtype == torch.bfloat16 else torch.bfloat16)
    return lambda: output.copy_(values)


def _gelu(torch: Any, rows: int, row: int, dtype: Any, where: str) -> Call:
    values, output = (_drawn(torch, rows, row, dtype, where) for _ in range(2))
    return lambda: torch.ops.aten.gelu.out(values, approximate="tanh", out=output)


def _dropout(torch: Any, rows: int, row: int, dtype: Any, where: str) -> Call:
    values = _drawn(torch, rows, row, dtype, where)
    return lambda: torch.native_dropout(values, 0.1, train=True)


def _layer_norm(torch: Any, rows: int, row: int, dtype: Any, where: str) -> Call:
    values = _drawn(torch, rows, row, dtype, where)
    weight, bias = (torch.ones(row, device=where, dtype=dtype) for _ in range(2))
    return lambda: torch.native_layer_norm(values, (row,), weight, bias, 1e-5)


def _rms_norm(torch: Any, rows: int, row: int, dtype: Any, where: str) -> Call:
    """Raises RuntimeError where PyTorch would compose it of several kernels (before 2.9)."""
    fused = getattr(torch.ops.aten, "_fused_rms_norm", None)
    if fused is None:
        raise RuntimeError(f"PyTorch {torch.__version__} has no fused RMS norm")
    values = _drawn(torch, rows, row, dtype, where)
    weight = torch.ones(row, device=where, dtype=dtype)
    return lambda: fused(values, (row,), weight, 1e-5)


def _softmax(torch: Any, rows: int, row: int, dtype: Any, where: str) -> Call:
    values, output = (_drawn(torch, rows, row, dtype, where) for _ in range(2))
    return lambda: torch.softmax(values, dim=-1, out=output)


def _cross_entropy(torch: Any, rows: int, row: int, dtype: Any, where: str) -> Call:
    """Log-softmax, then the mean of the targets' logits."""
    logits = _drawn(torch, rows, row, dtype, where)
    targets = torch.randint(0, row, (rows,), device=where)
    return lambda: torch.nn.functional.cross_entropy(logits, targets)


def _embedding(torch: Any, rows: int, row: int, dtype: Any, where: str) -> Call:
    """As many rows of a table as it has, in random order, some twice."""
    table, output = (_drawn(torch, rows, row, dtype, where) for _ in range(2))
    tokens = torch.randint(0, rows, (rows,), device=where)
    return lambda: torch.index_select(table, 0, tokens, out=output)


def _permutation(torch: Any, rows: int, row: int, dtype: Any, where: str) -> Call:
    values, output = (_drawn(torch, rows, row, dtype, where) for _ in range(2))
    order = torch.randperm(rows, device=where)
    return lambda: torch.index_select(values, 0, order, out=output)


def _adamw(torch: Any, rows: int, row: int, dtype: Any, where: str) -> Call:
    parameter = _drawn(torch, rows, row, dtype, where).requires_grad_()
    parameter.grad = _drawn(torch, rows, row, dtype, where)
    optimizer = torch.optim.AdamW([parameter], fused=True)
    return optimizer.step  # type: ignore[no-any-return]


def _arrays(count: float) -> Mapping[str, float]:
    return {dtype: count * nbytes for dtype, nbytes in VALUE_BYTES.items()}


OPERATIONS = (
    Operation("add", "elementwise", _arrays(3), _add),
    Operation("copy", "elementwise", _arrays(2), _copy),
    Operation("cast", "elementwise", {"bfloat16": 6.0, "float32": 6.0}, _cast),
    Operation("gelu", "elementwise", _arrays(2), _gelu),
    # The mask is one byte a value.
    Operation("dropout", "elementwise", {"bfloat16": 5.0, "float32": 9.0}, _dropout),
    # Reads parameter, gradient and both moments, writes all but the gradient; a kernel of its own counts the steps.
    Operation("adamw", "elementwise", {"float32": 28.0}, _adamw, launches=2),
    Operation("ln", "norm", _arrays(2), _layer_norm, has_rows=True),
    Operation("rms_norm", "norm", _arrays(2), _rms_norm, has_rows=True),
    Operation("softmax", "softmax", _arrays(2), _softmax, has_rows=True),
    Operation("cross_entropy", "softmax", {"float32": 8.0}, _cross_entropy, has_rows=True, launches=2),
    Operation("embedding", "gather", _arrays(2), _embedding),
    Operation("permutation", "gather", _arrays(2), _permutation),
)


def cases(device: Device, size: Size) -> Iterator[Case]:
    """Every operation in every dtype at every shape."""
    for operation, rows, row in itertools.product(OPERATIONS, ROWS[size], ROW_LENGTHS[size]):
        if rows * row > MAX_VALUES:
            continue
        for dtype, value_nbytes in operation.nbytes_by_value.items():
            index_bytes = INDEX_BYTES * rows if operation.kind == "gather" else 0
            key: dict[str, Cell] = {
                "OPName": operation.name,
                "Device": device.name,
                "B": rows,
                "H": row,
                "dtype": dtype,
                "timing": device.timing,
                "stream_kind": operation.kind,
                "nbytes": int(value_nbytes * rows * row) + index_bytes,
                "row_bytes": VALUE_BYTES[dtype] * row if operation.has_rows else 0,
                "launches": operation.launches,
            }
            # Twice what is moved: random numbers are drawn while older buffers are still held.
            yield Case(key, 2.0 * value_nbytes * rows * row, _measure(operation, rows, row, dtype))


def _measure(operation: Operation, rows: int, row: int, dtype: str) -> Any:
    def measure(device: Device) -> Mapping[str, Cell]:
        torch = device.torch
        call = operation.make(torch, rows, row, getattr(torch, dtype), device.kind)
        with torch.no_grad():
            return {"Latency": milliseconds(device.cold_s(call))}

    return measure


MEMORY_BOUND = Section("memory_bound", KEY, ("Latency",), cases)
