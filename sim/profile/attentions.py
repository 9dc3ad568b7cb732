"""Fused attention, forward and backward, by every implementation that is installed."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sim.profile.case import SUSTAINED_COLUMNS, SUSTAINED_S, Case, Cell, Section, Size, latency, settled
from sim.profile.device import Call, Device

KEY = (
    "kernel_source",
    "batch_size",
    "isl",
    "num_heads",
    "num_key_value_heads",
    "head_dim",
    "window_size",
    "attn_dtype",
    "kv_cache_dtype",
    "pass",
    "causal",
)
DIRECTIONS = ("fwd", "bwd")
DTYPE = "bfloat16"
NO_CACHE = "none"
"""`kv_cache_dtype`: training keeps no cache of keys and values, and copies none into it."""

SEQ_LENS: dict[Size, tuple[int, ...]] = {
    "full": (512, 1024, 2048, 4096, 8192, 16384, 32768),
    "quick": (1024, 4096, 16384),
    "tiny": (16,),
}
TOKENS: dict[Size, tuple[int, ...]] = {"full": (4096, 16384, 32768), "quick": (16384,), "tiny": (32,)}
HEADS: dict[Size, tuple[tuple[int, int], ...]] = {
    "full": ((8, 8), (32, 8), (32, 32), (64, 8)),
    "quick": ((8, 8), (32, 8)),
    "tiny": ((2, 1),),
}
HEAD_DIMS: dict[Size, tuple[int, ...]] = {"full": (64, 128, 192, 256), "quick": (64, 128), "tiny": (8,)}

Kernel = Callable[[Any, Any, Any, bool], Any]
"""(q, k, v, causal) -> output; q (batch, seq_len, heads, head_dim), k and v with fewer heads, output as q."""


@dataclass(frozen=True)
class Shape:
    """Self-attention of whole sequences."""

    batch: int
    seq_len: int
    heads: int
    kv_heads: int
    head_dim: int
    is_causal: bool

    def key(self, kernel: str, direction: str) -> Mapping[str, Cell]:
        """Columns of the public sets, and the pass and the mask."""
        numbers = (self.batch, self.seq_len, self.heads, self.kv_heads, self.head_dim, 0)
        return dict(zip(KEY, (kernel, *numbers, DTYPE, NO_CACHE, direction, int(self.is_causal)), strict=True))

    @property
    def nbytes(self) -> float:
        """Q, K, V, O and their gradients twice over, 2 bytes a value: the backward pass of some keeps fp32 sums."""
        rows = self.batch * self.seq_len * (2 * self.heads + 2 * self.kv_heads)
        return 2.0 * 4.0 * rows * self.head_dim


SUSTAINED: dict[Size, tuple[Shape, ...]] = {
    "full": (Shape(4, 4096, 32, 8, 128, is_causal=True), Shape(2, 16384, 32, 8, 128, is_causal=True)),
    "quick": (Shape(4, 4096, 32, 8, 128, is_causal=True),),
    "tiny": (Shape(1, 16, 2, 1, 8, is_causal=True),),
}


def cases(device: Device, size: Size) -> Iterator[Case]:
    """Every implementation at every shape, both passes."""
    kernels = _kernels(device)
    for name, shape, direction in itertools.product(kernels, _shapes(size), DIRECTIONS):
        yield Case(shape.key(name, direction), shape.nbytes, _burst(kernels[name], shape, direction))


def sustained_cases(device: Device, size: Size) -> Iterator[Case]:
    """Every implementation at a few large shapes, for as long as clock and power take to settle."""
    kernels = _kernels(device)
    for name, shape, direction in itertools.product(kernels, SUSTAINED[size], DIRECTIONS):
        measure = _sustained(kernels[name], shape, direction, SUSTAINED_S[size])
        yield Case(shape.key(name, direction), shape.nbytes, measure)


def _shapes(size: Size) -> Iterator[Shape]:
    for seq_len, tokens in itertools.product(SEQ_LENS[size], TOKENS[size]):
        if tokens < seq_len:
            continue
        for (heads, kv_heads), head_dim, is_causal in itertools.product(HEADS[size], HEAD_DIMS[size], (True, False)):
            yield Shape(tokens // seq_len, seq_len, heads, kv_heads, head_dim, is_causal)


def _burst(kernel: Kernel, shape: Shape, direction: str) -> Any:
    return lambda device: latency(device.hot_s(_call(kernel, shape, direction, device)))


def _sustained(kernel: Kernel, shape: Shape, direction: str, seconds: float) -> Any:
    return lambda device: settled(device.sustained(_call(kernel, shape, direction, device), seconds))


def _call(kernel: Kernel, shape: Shape, direction: str, device: Device) -> Call:
    """One pass over normal random numbers; the backward one over a forward pass that was run once."""
    torch = device.torch
    is_backward = direction == "bwd"

    def drawn(heads: int) -> Any:
        size = (shape.batch, shape.seq_len, heads, shape.head_dim)
        return torch.randn(size, dtype=torch.bfloat16, device=device.kind, requires_grad=is_backward)

    q, k, v = drawn(shape.heads), drawn(shape.kv_heads), drawn(shape.kv_heads)
    if not is_backward:
        return lambda: kernel(q, k, v, shape.is_causal)
    output = kernel(q, k, v, shape.is_causal)
    gradient = torch.randn_like(output)
    return lambda: torch.autograd.grad(output, (q, k, v), gradient, retain_graph=True)


def _kernels(device: Device) -> dict[str, Kernel]:
    """Implementations by the name that they have in the file."""
    attention = importlib.import_module("torch.nn.attention")
    found = {"fa2_torch_sdpa": _sdpa(device, attention, attention.SDPBackend.FLASH_ATTENTION)}
    if device.kind == "cuda":
        found["cudnn_torch_sdpa"] = _sdpa(device, attention, attention.SDPBackend.CUDNN_ATTENTION)
    for name, module in (("fa2_flash_attn", "flash_attn"), ("fa3_flash_attn", "flash_attn_interface")):
        if device.kind == "cuda" and (function := _function(module)) is not None:
            found[name] = _flash(function)
    return found


def _function(module: str) -> Any:
    """`flash_attn_func` of a package, None where it is not installed."""
    try:
        return importlib.import_module(module).flash_attn_func
    except (ImportError, AttributeError):
        return None


def _flash(function: Any) -> Kernel:
    def kernel(q: Any, k: Any, v: Any, is_causal: bool) -> Any:
        output = function(q, k, v, causal=is_causal)
        return output[0] if isinstance(output, tuple) else output

    return kernel


def _sdpa(device: Device, attention: Any, backend: Any) -> Kernel:
    """PyTorch's own with one backend allowed: a shape that it does not take is refused, never done by another."""
    function = device.torch.nn.functional.scaled_dot_product_attention

    def kernel(q: Any, k: Any, v: Any, is_causal: bool) -> Any:
        heads_first = (each.transpose(1, 2) for each in (q, k, v))
        with attention.sdpa_kernel(backend):
            return function(*heads_first, is_causal=is_causal, enable_gqa=q.shape[2] != k.shape[2]).transpose(1, 2)

    return kernel


ATTENTION = Section("attention", KEY, ("latency_ms",), cases)
ATTENTION_SUSTAINED = Section("attention_sustained", KEY, SUSTAINED_COLUMNS, sustained_cases)
