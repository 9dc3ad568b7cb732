"""Matrix products: the three of every linear layer, in a short burst and at the sustained clock."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sim.profile.case import SUSTAINED_COLUMNS, SUSTAINED_S, Case, Cell, Section, Size, latency, settled
from sim.profile.device import Device

Layout = Literal["TN", "NN", "NT"]
"""As BLAS names operands, columns first: TN forward, NN input gradient, NT weight gradient."""

MAX_FLOP = 4e13
"""A burst of one product stays below 0.1 s on the slowest GPU."""

TOKENS: dict[Size, tuple[int, ...]] = {
    "full": (1024, 2048, 4096, 8192, 16384, 32768),
    "quick": (2048, 8192),
    "tiny": (64,),
}
WIDTHS: dict[Size, tuple[int, ...]] = {
    "full": (512, 1024, 2048, 3584, 4096, 5120, 8192, 12288, 14336, 28672),
    "quick": (1024, 4096, 14336),
    "tiny": (32, 64),
}
SUSTAINED_SHAPES: dict[Size, tuple[tuple[int, int, int], ...]] = {
    "full": ((4096, 4096, 4096), (8192, 8192, 8192), (16384, 8192, 8192), (8192, 28672, 4096)),
    "quick": ((8192, 8192, 8192),),
    "tiny": ((64, 64, 64),),
}

KEY = ("kernel_source", "gemm_dtype", "m", "n", "k", "layout")


@dataclass(frozen=True)
class Product:
    """(m, k) x (k, n) in one layout and format.

    is_fast: fp8 products added up in the tensor cores' own precision, as Transformer Engine does in the forward pass;
    its gradients add partial sums in fp32 (`use_split_accumulator`).
    """

    dtype: str
    m: int
    n: int
    k: int
    layout: Layout
    is_fast: bool = False

    @property
    def key(self) -> Mapping[str, Cell]:
        """Columns of the public sets, and the layout."""
        fp8_source = "torch._scaled_mm_fast" if self.is_fast else "torch._scaled_mm"
        source = fp8_source if self.dtype == "fp8" else "torch.mm"
        return dict(zip(KEY, (source, self.dtype, self.m, self.n, self.k, self.layout), strict=True))

    @property
    def nbytes(self) -> float:
        """Both operands and the output; fp8 operands are drawn in fp32 first."""
        value_bytes = 5.0 if self.dtype == "fp8" else 2.0
        return value_bytes * (self.m * self.k + self.k * self.n) + 2.0 * self.m * self.n


def burst_cases(device: Device, size: Size) -> Iterator[Case]:
    """All products of linear layers from one width to another."""
    seen = set()
    for tokens, out_width, in_width in itertools.product(TOKENS[size], WIDTHS[size], WIDTHS[size]):
        if 2.0 * tokens * out_width * in_width > MAX_FLOP:
            continue
        for product in _of_layer(device, tokens, out_width, in_width):
            if product not in seen:
                seen.add(product)
                yield Case(product.key, product.nbytes, _burst(product))


def _of_layer(device: Device, tokens: int, out_width: int, in_width: int) -> Iterator[Product]:
    """Forward, input gradient and weight gradient of a layer; the tensor cores take fp8 in the layout TN only."""
    shapes: tuple[tuple[int, int, int, Layout], ...] = (
        (tokens, out_width, in_width, "TN"),
        (tokens, in_width, out_width, "NN"),
        (out_width, in_width, tokens, "NT"),
    )
    for m, n, k, layout in shapes:
        yield Product("bfloat16", m, n, k, layout)
        if device.has_fp8:
            yield Product("fp8", m, n, k, "TN", is_fast=layout == "TN")


def sustained_cases(device: Device, size: Size) -> Iterator[Case]:
    """Large products for as long as clock and power take to settle; fp8 added up both ways, as in a burst."""
    ways = (("bfloat16", False), ("fp8", True), ("fp8", False)) if device.has_fp8 else (("bfloat16", False),)
    for m, n, k in SUSTAINED_SHAPES[size]:
        for dtype, is_fast in ways:
            product = Product(dtype, m, n, k, "TN", is_fast)
            yield Case(product.key, product.nbytes, _sustained(product, SUSTAINED_S[size]))


def _burst(product: Product) -> Any:
    return lambda device: latency(device.hot_s(_call(product, device)))


def _sustained(product: Product, seconds: float) -> Any:
    return lambda device: settled(device.sustained(_call(product, device), seconds))


def _call(product: Product, device: Device) -> Any:
    """The product of normal random numbers (data decides power, and power the clock), into a buffer of its own."""
    torch = device.torch
    m, n, k = product.m, product.n, product.k
    output = torch.empty((m, n), dtype=torch.bfloat16, device=device.kind)
    if product.dtype == "fp8":
        left, right = (torch.randn(shape, device=device.kind).to(torch.float8_e4m3fn) for shape in ((m, k), (n, k)))
        scale = torch.ones((), device=device.kind)
        options = {"scale_a": scale, "scale_b": scale, "out_dtype": torch.bfloat16, "use_fast_accum": product.is_fast}
        return lambda: torch._scaled_mm(left, right.t(), out=output, **options)  # noqa: SLF001 - PyTorch's only fp8 product
    shapes = {"TN": ((m, k), (n, k)), "NN": ((m, k), (k, n)), "NT": ((k, m), (k, n))}[product.layout]
    left, right = (torch.randn(shape, dtype=torch.bfloat16, device=device.kind) for shape in shapes)
    left = left.t() if product.layout == "NT" else left
    right = right.t() if product.layout == "TN" else right
    return lambda: torch.mm(left, right, out=output)


GEMM = Section("gemm", KEY, ("latency_ms",), burst_cases)
GEMM_SUSTAINED = Section("gemm_sustained", KEY, SUSTAINED_COLUMNS, sustained_cases)
