from collections import Counter

import pytest

from sim.cost.collectives.spread import Spread
from sim.cost.kernels import Gemm
from sim.program.layers import layer
from sim.program.operations import Block, BlockBuilder, Collective, Compute
from sim.program.passes import RECOMPUTE, PassBuilder, backward_pass, forward_pass, weight_gradients
from sim.program.pieces import Exchange, Linear
from sim.program.routing import Routed
from sim.program.shapes import Shapes
from sim.spec.model import Experts, Model
from sim.spec.stack import FusedKernels

MODEL = Model(
    name="tiny",
    num_layers=2,
    hidden=64,
    num_heads=8,
    num_kv_heads=4,
    head_dim=8,
    ffn_hidden=128,
    gated_mlp=True,
    vocab=256,
    tied_embeddings=False,
    max_seq_len=32,
)

KERNELS = FusedKernels(
    norm="fused",
    activation="fused",
    rotary="fused",
    dropout="fused",
    softmax="fused",
    cross_entropy="fused",
    gradient_accumulation="fused",
    permutation="fused",
    optimizer="fused",
)


def shapes(tp: int = 1, *, sequence_parallel: bool = False, cp: int = 1, ep: int = 1) -> Shapes:
    tokens = 32 // cp
    copies = 2 * (tokens // tp if sequence_parallel else tokens)
    routed = Routed(((copies // 2, 2),), copies, 1.0, Spread((1 / ep,) * ep, 2, 4), "bf16", is_shared_beside=False)
    return Shapes(
        tokens=tokens,
        tokens_sp=tokens // tp if sequence_parallel else tokens,
        sequences=1,
        q_len=tokens,
        kv_len=32,
        heads=8 // tp,
        kv_heads=max(4 // tp, 1),
        vocab=256 // tp,
        tp=tp,
        cp=cp,
        ep=ep,
        etp=1,
        is_sequence_parallel=sequence_parallel,
        format="bf16",
        recipe=None,
        keeps_weights_cast=False,
        attention="fa2",
        kernels=KERNELS,
        norm="rmsnorm",
        dropout=0.0,
        grad_bytes=4,
        accumulates="fused",
        routed=routed,
    )


def forward(s: Shapes, model: Model = MODEL) -> Block:
    builder = BlockBuilder()
    run = PassBuilder(builder)
    forward_pass(run, layer(model, s, 0))
    run.flush()
    return builder.build()


def backward(s: Shapes, model: Model = MODEL, *, overlaps: bool = True) -> Block:
    builder = BlockBuilder()
    run = PassBuilder(builder)
    backward_pass(run, layer(model, s, 0), overlaps=overlaps)
    run.flush()
    return builder.build()


def split(s: Shapes, model: Model = MODEL) -> tuple[Block, Block]:
    """The input-gradient pass and the weight-gradient pass of a layer."""
    blocks = []
    for is_input in (True, False):
        builder = BlockBuilder()
        run = PassBuilder(builder)
        if is_input:
            backward_pass(run, layer(model, s, 0), overlaps=True, is_split=True)
        else:
            weight_gradients(run, layer(model, s, 0))
        run.flush()
        blocks.append(builder.build())
    return blocks[0], blocks[1]


def kernels(block: Block) -> Counter[str]:
    computes = [operation.payload for operation in block.operations if isinstance(operation.payload, Compute)]
    return Counter(kernel.name for compute in computes for kernel in compute.kernels)


def calls(block: Block) -> Counter[tuple[str, str, float]]:
    payloads = [operation.payload for operation in block.operations]
    return Counter((p.kind, p.op, p.nbytes) for p in payloads if isinstance(p, Collective))


def flop(block: Block) -> float:
    kernels = [k for op in block.operations if isinstance(op.payload, Compute) for k in op.payload.kernels]
    return sum(2 * k.m * k.n * k.k * k.count for k in kernels if isinstance(k, Gemm))


ACTIVATION = 2.0 * 32 * 64


def test_tensor_parallelism_reduces_activations_twice_a_layer_and_direction() -> None:
    assert calls(forward(shapes(2))) == {("tp", "all_reduce", ACTIVATION): 2}
    assert calls(backward(shapes(2))) == {("tp", "all_reduce", ACTIVATION): 2}


@pytest.mark.parametrize("overlaps", [True, False])
def test_sequence_parallelism_gathers_and_scatters_and_gathers_inputs_again(overlaps: bool) -> None:
    s = shapes(2, sequence_parallel=True)
    assert calls(forward(s)) == {("tp", "all_gather", ACTIVATION): 2, ("tp", "reduce_scatter", ACTIVATION): 2}
    assert calls(backward(s, overlaps=overlaps)) == {
        ("tp", "all_gather", ACTIVATION): 4,
        ("tp", "reduce_scatter", ACTIVATION): 2,
    }


def test_without_tensor_parallelism_a_layer_is_one_operation_each_way() -> None:
    assert len(forward(shapes()).operations) == len(backward(shapes()).operations) == 1


def test_context_parallelism_gathers_keys_and_values_each_way_and_scatters_their_gradient() -> None:
    keys_and_values = 2.0 * 32 * 4 * (8 + 8)
    assert calls(forward(shapes(cp=2))) == {("cp", "all_gather", keys_and_values): 1}
    assert calls(backward(shapes(cp=2))) == {
        ("cp", "all_gather", keys_and_values): 1,
        ("cp", "reduce_scatter", keys_and_values): 1,
    }


def test_experts_dispatch_and_combine_every_copy_of_a_token_each_way() -> None:
    model = MODEL.model_copy(update={"experts": Experts(num_experts=4, top_k=2, ffn_hidden=32)})
    copies = 2.0 * 32 * 2 * 64
    assert calls(forward(shapes(ep=2), model)) == {("ep", "all_to_all", copies): 2}
    assert calls(backward(shapes(ep=2), model)) == {("ep", "all_to_all", copies): 2}


@pytest.mark.parametrize("s", [shapes(), shapes(4), shapes(4, sequence_parallel=True)])
def test_the_backward_pass_multiplies_twice_as_much_as_the_forward_pass(s: Shapes) -> None:
    weights = 64 * 64 + 64 * 64 + 64 * 64 + 3 * 64 * 128
    assert flop(forward(s)) == 2 * 32 * weights / s.tp
    assert flop(backward(s)) == 2 * flop(forward(s))


def test_the_input_gradient_is_reduced_beside_the_weight_gradient() -> None:
    exchange = Exchange("tp", 8.0, "all_gather", "reduce_scatter", regathers=True)
    pieces = (exchange, Linear("x", 4, 4, 4, "bf16", 4, "fused"))

    def operations(*, overlaps: bool) -> list[tuple[str, tuple[int, ...]]]:
        builder = BlockBuilder()
        run = PassBuilder(builder)
        backward_pass(run, pieces, overlaps=overlaps)
        run.flush()
        names = [
            item.payload.op if isinstance(item.payload, Collective) else item.payload.kernels[0].name.split()[-1]
            for item in builder.build().operations
        ]
        return list(zip(names, [item.after for item in builder.operations], strict=True))

    assert operations(overlaps=True) == [
        ("all_gather", ()),
        ("dgrad", ()),
        ("reduce_scatter", (1,)),
        ("wgrad", (0,)),
    ]
    assert operations(overlaps=False) == [("all_gather", ()), ("dgrad", (0,)), ("reduce_scatter", (1,))]


def test_recomputation_runs_the_forward_pass_again_under_its_own_name() -> None:
    builder = BlockBuilder()
    run = PassBuilder(builder)
    forward_pass(run, layer(MODEL, shapes(2), 0), RECOMPUTE)
    run.flush()
    block = builder.build()
    assert calls(block) == calls(forward(shapes(2)))
    assert all(op.payload.is_recompute for op in block.operations if isinstance(op.payload, Compute))


SPLITS = [shapes(), shapes(2), shapes(2, sequence_parallel=True), shapes(2, sequence_parallel=True, cp=2), shapes(ep=2)]
MOE = MODEL.model_copy(update={"experts": Experts(num_experts=4, top_k=2, ffn_hidden=32)})


@pytest.mark.parametrize("s", SPLITS)
@pytest.mark.parametrize("model", [MODEL, MOE])
def test_a_split_backward_pass_runs_the_kernels_and_calls_of_a_full_one(s: Shapes, model: Model) -> None:
    inputs, weights = split(s, model)
    assert kernels(inputs) + kernels(weights) == kernels(backward(s, model))
    assert calls(inputs) + calls(weights) == calls(backward(s, model))


@pytest.mark.parametrize("s", SPLITS)
def test_weight_gradients_are_half_of_the_products_and_nothing_else(s: Shapes) -> None:
    inputs, weights = split(s)
    assert flop(inputs) == flop(weights) == flop(forward(s))
    assert all(name.endswith("wgrad") for name in kernels(weights))
    assert not any(name.endswith("wgrad") for name in kernels(inputs))


def test_inputs_that_sequence_parallelism_scattered_are_gathered_for_the_weight_gradients_alone() -> None:
    inputs, weights = split(shapes(2, sequence_parallel=True))
    assert calls(weights) == {("tp", "all_gather", ACTIVATION): 2}
    assert calls(inputs) == {("tp", "all_gather", ACTIVATION): 2, ("tp", "reduce_scatter", ACTIVATION): 2}
    assert not calls(split(shapes(2))[1])
