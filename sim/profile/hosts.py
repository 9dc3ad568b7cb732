"""What the host does for the GPU: launches, copies, and the optimizer step of offloaded states."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sim.profile.case import Case, Cell, Section, Size, milliseconds
from sim.profile.device import Call, Device

CALLS: dict[Size, int] = {"full": 20_000, "quick": 5_000, "tiny": 50}
COPY_BYTES: dict[Size, tuple[int, ...]] = {
    "full": (2**12, 2**16, 2**20, 2**24, 2**28, 2**30),
    "quick": (2**16, 2**28),
    "tiny": (2**12,),
}
UPDATE_VALUES: dict[Size, int] = {"full": 2**28, "quick": 2**26, "tiny": 2**10}
UPDATE_BYTES = 28
"""Of host memory for each parameter: parameter, gradient and both moments read, all but the gradient written, fp32."""

UPDATES = 3

SMALL = 64
GRAPH_KERNELS = 1000

LAUNCH_KEY = ("operation", "device", "calls", "kernels_per_call")
COPY_KEY = ("direction", "device", "nbytes", "num_gpus")


def launch_cases(device: Device, size: Size) -> Iterator[Case]:
    """Kernels so short that the host is all that is seen: one by one, through autograd, and as CUDA graphs."""
    calls = CALLS[size]

    def case(operation: str, times: int, kernels: int, make: Any) -> Case:
        key: dict[str, Cell] = dict(zip(LAUNCH_KEY, (operation, device.name, times, kernels), strict=True))
        return Case(key, 2**20, lambda on: {"host_us_per_call": _microseconds(on.wall_s(make(on), times))})

    yield case("eager", calls, 1, _eager)
    yield case("eager_linear_forward_backward", max(calls // 10, 1), 3, _linear)
    if device.kind == "cuda":
        yield case("graph_of_one_kernel", calls, 1, lambda on: _graph(on, 1))
        yield case("graph_of_kernels", max(calls // 100, 1), GRAPH_KERNELS, lambda on: _graph(on, GRAPH_KERNELS))


def _microseconds(time_s: float) -> float:
    return float(f"{time_s * 1e6:.4g}")


def _eager(device: Device) -> Call:
    values = device.torch.zeros(1, device=device.kind)
    return lambda: values.add_(1.0)


def _linear(device: Device) -> Call:
    """One linear layer: product, and the two of its backward pass."""
    torch = device.torch
    layer = torch.nn.Linear(SMALL, SMALL, bias=False, device=device.kind)
    values = torch.randn((SMALL, SMALL), device=device.kind, requires_grad=True)
    gradient = torch.randn((SMALL, SMALL), device=device.kind)
    return lambda: torch.autograd.grad(layer(values), (values, layer.weight), gradient)


def _graph(device: Device, kernels: int) -> Call:
    torch = device.torch
    call = _eager(device)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(kernels):
            call()
    return graph.replay  # type: ignore[no-any-return]


def copy_cases(device: Device, size: Size) -> Iterator[Case]:
    """Pinned copies both ways, and AdamW on the host's cores, which the machine's GPUs share."""

    def key(direction: str, nbytes: int) -> Mapping[str, Cell]:
        return dict(zip(COPY_KEY, (direction, device.name, nbytes, device.num_gpus), strict=True))

    for direction in ("host_to_device", "device_to_host"):
        for nbytes in COPY_BYTES[size]:
            yield Case(key(direction, nbytes), nbytes, _copy(direction, nbytes))
    yield Case(key("host_update", UPDATE_BYTES * UPDATE_VALUES[size]), 0, _host_update(UPDATE_VALUES[size]))


def _copy(direction: str, nbytes: int) -> Any:
    def measure(device: Device) -> Mapping[str, Cell]:
        torch = device.torch
        host = torch.zeros(nbytes, dtype=torch.uint8)
        host = host.pin_memory() if device.kind == "cuda" else host
        there = torch.zeros(nbytes, dtype=torch.uint8, device=device.kind)
        source, target = (host, there) if direction == "host_to_device" else (there, host)
        return {"latency_ms": milliseconds(device.hot_s(lambda: target.copy_(source, non_blocking=True)))}

    return measure


def _host_update(num_values: int) -> Any:
    """Fused AdamW over fp32 parameters in host memory, on all cores that the process may use."""

    def measure(device: Device) -> Mapping[str, Cell]:
        torch = device.torch
        parameter = torch.randn(num_values, requires_grad=True)
        parameter.grad = torch.randn(num_values)
        step = torch.optim.AdamW([parameter], fused=True).step
        return {"latency_ms": milliseconds(device.wall_s(step, UPDATES))}

    return measure


LAUNCH = Section("launch", LAUNCH_KEY, ("host_us_per_call",), launch_cases)
COPY = Section("copy", COPY_KEY, ("latency_ms",), copy_cases)
