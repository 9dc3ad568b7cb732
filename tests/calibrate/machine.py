"""A machine without a GPU: as much of PyTorch as `sim profile` calls, whose kernels take the times of a known GPU.

Shapes, bytes, layouts and passes are read off the tensors and the calls, never off what the profile writes of them.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np

from sim.cost.attention import Attention, attention_s
from sim.cost.copy import Copy, HostUpdate, copy_s, host_update_s
from sim.cost.gemm import Gemm, gemm_s
from sim.cost.stream import Stream, StreamKind, stream_s
from sim.profile.device import Sustained
from sim.spec.gpu import AttentionKernel, Gpu

ITEM_BYTES = {"bfloat16": 2, "float32": 4, "float8_e4m3fn": 1, "uint8": 1, "int64": 8}
ADAM_BYTES = 28

EAGER_S = 6e-6
AUTOGRAD_PRODUCT_S = 15e-6
GRAPH_S = 8e-6
GRAPH_KERNEL_S = 1.2e-6
"""Of the host, for one operation, and of a kernel inside a graph."""


@dataclass
class Work:
    """What calls did since it was emptied: time of the GPU in a burst and in a run, and of the host, s."""

    burst_s: float = 0.0
    run_s: float = 0.0
    host_s: float = 0.0


@dataclass(eq=False)
class Tensor:
    """A shape in some order of memory. backward: what its gradient runs."""

    torch: Torch
    shape: tuple[int, ...]
    dtype: str = "float32"
    where: str = "cuda"
    is_transposed: bool = False
    grad: Tensor | None = None
    backward: Callable[[], None] = field(default=lambda: None)

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]

    def t(self) -> Tensor:
        return Tensor(self.torch, self.shape[::-1], self.dtype, self.where, is_transposed=True)

    def to(self, dtype: str) -> Tensor:
        return Tensor(self.torch, self.shape, dtype, self.where)

    def transpose(self, one: int, other: int) -> Tensor:
        shape = list(self.shape)
        shape[one], shape[other] = shape[other], shape[one]
        return Tensor(self.torch, tuple(shape), self.dtype, self.where, backward=self.backward)

    def requires_grad_(self) -> Tensor:
        return self

    def pin_memory(self) -> Tensor:
        return Tensor(self.torch, self.shape, self.dtype, "pinned")

    def add_(self, _: float) -> None:
        self.torch.eager()

    def copy_(self, source: Tensor, *, non_blocking: bool = False) -> None:
        if self.where == source.where:
            self.torch.move("elementwise", self, source)
            return
        assert non_blocking
        assert {self.where, source.where} == {"cuda", "pinned"}
        direction = "device_to_host" if source.where == "cuda" else "host_to_device"
        self.torch.took(copy_s(Copy("copy", self.nbytes, direction), self.torch.gpu.copy_constants))


class Torch:
    """The module torch on a GPU."""

    __version__ = "9.9.0+cu130"
    bfloat16, float32, float8_e4m3fn, uint8 = "bfloat16", "float32", "float8_e4m3fn", "uint8"
    no_grad = contextlib.nullcontext

    def __init__(self, gpu: Gpu, num_gpus: int) -> None:
        self.gpu = gpu
        self.num_gpus = num_gpus
        self.work = Work()
        self.num_captured: int | None = None
        self.backend: AttentionKernel = "fa2"
        functional = SimpleNamespace(cross_entropy=self._cross_entropy, scaled_dot_product_attention=self._sdpa)
        self.nn = SimpleNamespace(functional=functional, Linear=lambda *_, **__: Linear(self))
        self.optim = SimpleNamespace(AdamW=self._adamw)
        self.ops = SimpleNamespace(
            aten=SimpleNamespace(gelu=SimpleNamespace(out=self._gelu), _fused_rms_norm=self._norm)
        )
        self.autograd = SimpleNamespace(grad=lambda output, *_, **__: output.backward())
        self.cuda = SimpleNamespace(
            Stream=lambda: SimpleNamespace(wait_stream=lambda _: None),
            current_stream=lambda: SimpleNamespace(wait_stream=lambda _: None),
            stream=lambda _: contextlib.nullcontext(),
            CUDAGraph=lambda: SimpleNamespace(replay=None),
            graph=self._graph,
        )

    def took(self, burst_s: float, run_s: float | None = None, host_s: float = EAGER_S) -> None:
        self.work.burst_s += burst_s
        self.work.run_s += burst_s if run_s is None else run_s
        self.work.host_s += host_s

    def eager(self) -> None:
        if self.num_captured is None:
            self.took(self.gpu.memory_bound.launch_s)
        else:
            self.num_captured += 1

    def move(self, kind: StreamKind, *tensors: Tensor, row_bytes: float = 0.0, launches: int = 1) -> None:
        nbytes = float(sum(tensor.nbytes for tensor in tensors))
        self.took(stream_s(Stream("move", nbytes, kind=kind, launches=launches, row_bytes=row_bytes), self.gpu))

    def randn(self, *size: Any, device: str = "cpu", dtype: str = "float32", requires_grad: bool = False) -> Tensor:
        del requires_grad
        shape = size[0] if isinstance(size[0], tuple) else size
        return Tensor(self, shape, dtype, device)

    zeros = ones = empty = randn

    def randn_like(self, tensor: Tensor) -> Tensor:
        return Tensor(self, tensor.shape, tensor.dtype, tensor.where)

    def randint(self, low: int, high: int, size: tuple[int, ...], *, device: str) -> Tensor:
        assert low == 0 < high
        return Tensor(self, size, "int64", device)

    def randperm(self, length: int, *, device: str) -> Tensor:
        return Tensor(self, (length,), "int64", device)

    def mm(self, left: Tensor, right: Tensor, *, out: Tensor) -> None:
        self._product(left, right, out, "bf16")

    def _scaled_mm(self, left: Tensor, right: Tensor, *, out: Tensor, **options: Any) -> None:
        assert not left.is_transposed, "fp8 takes rows of the left"
        assert right.is_transposed, "and columns of the right operand"
        assert isinstance(options["use_fast_accum"], bool)
        self._product(left, right, out, "fp8")

    def _product(self, left: Tensor, right: Tensor, out: Tensor, number_format: Any) -> None:
        (m, k), (inner, n) = left.shape, right.shape
        assert inner == k
        assert out.shape == (m, n)
        product = Gemm("product", m, n, k, number_format)
        self.took(gemm_s(product, self.gpu, burst=True), gemm_s(product, self.gpu))

    def add(self, left: Tensor, right: Tensor, *, out: Tensor) -> None:
        self.move("elementwise", left, right, out)

    def _gelu(self, values: Tensor, *, approximate: str, out: Tensor) -> None:
        assert approximate == "tanh"
        self.move("elementwise", values, out)

    def native_dropout(self, values: Tensor, _: float, *, train: bool) -> None:
        assert train
        self.move("elementwise", values, values, Tensor(self, values.shape, "uint8"))

    def _norm(self, values: Tensor, shape: tuple[int, ...], *_: Any) -> None:
        self.move("norm", values, values, row_bytes=shape[0] * ITEM_BYTES[values.dtype])

    native_layer_norm = _norm

    def softmax(self, values: Tensor, *, dim: int, out: Tensor) -> None:
        self.move("softmax", values, out, row_bytes=values.shape[dim] * ITEM_BYTES[values.dtype])

    def _cross_entropy(self, logits: Tensor, targets: Tensor) -> None:
        assert targets.shape == logits.shape[:1]
        self.move("softmax", logits, logits, row_bytes=logits.shape[1] * ITEM_BYTES[logits.dtype], launches=2)

    def index_select(self, table: Tensor, dim: int, order: Tensor, *, out: Tensor) -> None:
        assert dim == 0
        assert (*order.shape, table.shape[1]) == out.shape
        self.move("gather", out, out, order)

    def _adamw(self, parameters: Sequence[Tensor], *, fused: bool) -> Any:
        assert fused
        (parameter,) = parameters
        assert parameter.grad is not None
        nbytes = float(ADAM_BYTES * math.prod(parameter.shape))

        def step() -> None:
            if parameter.where == "cpu":
                update_s = host_update_s(HostUpdate("update", nbytes), self.gpu.copy_constants)
                self.took(0.0, host_s=update_s / self.num_gpus)
            else:
                self.took(stream_s(Stream("update", nbytes, launches=2), self.gpu))

        return SimpleNamespace(step=step)

    def _sdpa(self, *heads_first: Tensor, is_causal: bool, enable_gqa: bool) -> Tensor:
        q, k, v = (each.transpose(1, 2) for each in heads_first)
        assert enable_gqa == (q.shape[2] != k.shape[2])
        return self.attention(q, k, v, self.backend, is_causal=is_causal).transpose(1, 2)

    def attention(self, q: Tensor, k: Tensor, v: Tensor, kernel: AttentionKernel, *, is_causal: bool) -> Tensor:
        batch, seq_len, heads, head_dim = q.shape
        assert k.shape == v.shape == (batch, seq_len, k.shape[2], head_dim)
        work_frac = (seq_len + 1) / (2 * seq_len) if is_causal else 1.0
        sides = (batch, seq_len, seq_len, heads, k.shape[2], head_dim, head_dim, work_frac)

        def launch(*, is_backward: bool) -> None:
            attention = Attention("core", *sides, is_backward=is_backward, format="bf16", kernel=kernel)
            self.took(attention_s(attention, self.gpu, burst=True), attention_s(attention, self.gpu))

        launch(is_backward=False)
        return Tensor(self, q.shape, q.dtype, backward=lambda: launch(is_backward=True))

    @contextlib.contextmanager
    def _graph(self, graph: Any) -> Iterator[None]:
        self.num_captured = 0
        yield
        host_s = max(GRAPH_S, GRAPH_KERNEL_S * self.num_captured)
        self.num_captured = None
        graph.replay = lambda: self.took(0.0, host_s=host_s)


class Linear:
    """A layer whose products are so small that the host is all that takes time."""

    weight = None

    def __init__(self, torch: Torch) -> None:
        self._torch = torch

    def __call__(self, values: Tensor) -> Tensor:
        self._torch.took(0.0, host_s=AUTOGRAD_PRODUCT_S)
        return Tensor(self._torch, values.shape, backward=self._backward)

    def _backward(self) -> None:
        self._torch.took(0.0, host_s=2 * AUTOGRAD_PRODUCT_S)


class Machine:
    """A `sim.profile.device.Device` of `gpu`; every measurement is off by `noise`, normally distributed."""

    kind = "cuda"
    timing = "queued"
    has_fp8 = True
    memory_bytes = 80e9

    def __init__(self, gpu: Gpu, *, name: str, num_gpus: int, noise: float) -> None:
        self.torch = Torch(gpu, num_gpus)
        self.name = name
        self.num_gpus = num_gpus
        self._noise = noise
        self._drawn = np.random.default_rng(0)

    def modules(self) -> dict[str, Any]:
        """Modules that the profile imports by name."""
        torch = self.torch

        @contextlib.contextmanager
        def sdpa_kernel(backend: AttentionKernel) -> Iterator[None]:
            torch.backend = backend
            yield

        def flash_attn_func(q: Tensor, k: Tensor, v: Tensor, *, causal: bool) -> tuple[Tensor, None]:
            return torch.attention(q, k, v, "fa3", is_causal=causal), None

        backends = SimpleNamespace(FLASH_ATTENTION="fa2", CUDNN_ATTENTION="cudnn")
        return {
            "torch.nn.attention": SimpleNamespace(SDPBackend=backends, sdpa_kernel=sdpa_kernel),
            "flash_attn_interface": SimpleNamespace(flash_attn_func=flash_attn_func),
        }

    def hot_s(self, call: Callable[[], object]) -> float:
        return self._measured(self._work(call).burst_s)

    cold_s = hot_s

    def sustained(self, call: Callable[[], object], seconds: float) -> Sustained:
        assert seconds >= 20.0
        return Sustained(self._measured(self._work(call).run_s), 1410.0, 698.0)

    def wall_s(self, call: Callable[[], object], calls: int) -> float:
        assert calls >= 1
        return self._measured(self._work(call).host_s)

    def synchronize(self) -> None:
        pass

    def release(self) -> None:
        pass

    def _work(self, call: Callable[[], object]) -> Work:
        self.torch.work = Work()
        call()
        return self.torch.work

    def _measured(self, time_s: float) -> float:
        return time_s * math.exp(self._noise * float(self._drawn.standard_normal()))
