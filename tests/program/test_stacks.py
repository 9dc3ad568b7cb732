"""What a stack, a number format, dropout and recomputation change in the kernels of a step."""

from collections.abc import Callable, Iterator
from typing import get_args

import pytest

from sim.cost.kernels import Attention, Copy, Gemm, HostUpdate, Kernel, Stream, flop
from sim.errors import SimError
from sim.program.lower import lower
from sim.program.operations import Collective, Compute, Payload, Send
from sim.spec import find
from sim.spec.scenario import Scenario
from sim.spec.stack import FusedKernels

Make = Callable[..., Scenario]
STACKS = find.names("stacks")
EXPERTS = {"num_experts": 8, "top_k": 2, "ffn_hidden": 512}
EXERCISED = {
    "dropout": {"training.dropout": 0.1},
    "softmax": {"stack.attention": ["unfused"]},
    "permutation": {"model.experts": EXPERTS},
}
"""Settings under which a choice has an effect, where not everywhere."""


def payloads(scenario: Scenario) -> Iterator[Payload]:
    """Every payload of the step, as often as one rank of each class calls it."""
    program = lower(scenario, scenario.topology.build(), "folded")
    return (program.payloads[number] for number in program.payload.tolist())


def kernels(scenario: Scenario, *, recomputed: bool | None = None) -> list[Kernel]:
    return [
        kernel
        for payload in payloads(scenario)
        if isinstance(payload, Compute) and recomputed in (None, payload.is_recompute)
        for kernel in payload.kernels
    ]


def moved(scenario: Scenario) -> float:
    return sum(kernel.nbytes for kernel in kernels(scenario) if isinstance(kernel, Stream))


def total_flop(scenario: Scenario, *, recomputed: bool | None = None) -> float:
    return sum(flop(kernel) for kernel in kernels(scenario, recomputed=recomputed))


@pytest.mark.parametrize("stack", STACKS)
def test_every_stack_lowers_the_small_scenario(small: Make, stack: str) -> None:
    precision = small({"stack": stack, "training.precision": "bf16"}).stack.precisions[0]
    assert kernels(small({"stack": stack, "training.precision": precision}))


@pytest.mark.parametrize("choice", FusedKernels.model_fields)
def test_every_choice_of_kernels_changes_what_is_moved(small: Make, choice: str) -> None:
    values = get_args(FusedKernels.model_fields[choice].annotation)
    found = set()
    for value in values:
        scenario = small(EXERCISED.get(choice, {}) | {f"stack.kernels.{choice}": value})
        extra = sum(each.extra_bytes for each in kernels(scenario) if isinstance(each, Gemm))
        found.add(moved(scenario) + extra)
    assert len(found) == len(values)


def test_norms_and_residuals_of_a_layer_move_20_bytes_a_value_forward_and_24_backward(small: Make) -> None:
    scenario = small({"training.global_batch": 16})
    tokens = scenario.training.seq_len * scenario.training.micro_batch
    size = tokens * scenario.model.hidden * scenario.model.num_layers
    names = ("attention norm", "mlp norm", "residual")
    streams = [each for each in kernels(scenario) if isinstance(each, Stream)]
    for direction, nbytes in (("forward", 20), ("backward", 24)):
        own = [each.nbytes for each in streams if each.name in [f"{name} {direction}" for name in names]]
        assert sum(own) == nbytes * size


def test_a_stack_gives_values_that_the_scenario_leaves_out_and_no_others(small: Make) -> None:
    assert small({"stack": "megatron-2021"}).training.overlap.tensor is False
    assert small({"stack": "megatron-2021"}).training.dropout == 0.1
    said = {"training.dropout": 0.0, "training.overlap.tensor": True}
    scenario = small({"stack": "megatron-2021"} | said)
    assert (scenario.training.dropout, scenario.training.overlap.tensor) == (0.0, True)


def test_unfused_attention_computes_every_score_and_twice_as_much_backward(small: Make) -> None:
    scenario = small({"stack.attention": ["unfused"], "training.global_batch": 16})
    model, training = scenario.model, scenario.training
    products = [each for each in kernels(scenario) if isinstance(each, Gemm) and each.cause == "attention"]
    scores = model.num_layers * model.num_heads * training.seq_len**2
    forward = [each for each in products if each.name.endswith("forward")]
    assert sum(map(flop, forward)) == 4 * scores * model.head_dim
    assert sum(map(flop, products)) == 3 * 4 * scores * model.head_dim
    assert not any(isinstance(each, Attention) for each in kernels(scenario))


def test_unfused_attention_moves_the_scores(small: Make) -> None:
    """Forward 2 S for the softmax and 2.5 S for dropout, backward 3 S and 2.5 S, of scores in 16 bits."""
    scenario = small({"stack.attention": ["unfused"], "training.dropout": 0.1, "training.global_batch": 16})
    model, training = scenario.model, scenario.training
    scores = 2 * model.num_layers * model.num_heads * training.seq_len**2
    names = ("softmax", "attention dropout")
    for direction, passes in (("forward", 4.5), ("backward", 5.5)):
        own = [
            each.nbytes
            for each in kernels(scenario)
            if isinstance(each, Stream) and each.name in [f"{name} {direction}" for name in names]
        ]
        assert sum(own) == passes * scores


FP8 = {"training.precision": "fp8"}


def test_in_fp8_products_of_layers_are_fp8_and_head_and_attention_are_not(small: Make) -> None:
    products = [each for each in kernels(small(FP8)) if isinstance(each, Gemm)]
    assert {each.format for each in products if not each.name.startswith("head")} == {"fp8"}
    assert {each.format for each in products if each.name.startswith("head")} == {"bf16"}
    assert {each.format for each in kernels(small(FP8)) if isinstance(each, Attention)} == {"bf16"}


def test_casts_read_16_bits_and_write_the_value_and_its_transpose(small: Make) -> None:
    scenario = small(FP8 | {"training.global_batch": 16})
    model, tokens = scenario.model, scenario.training.seq_len
    kv, q = model.num_kv_heads * model.head_dim, model.num_heads * model.head_dim
    inputs = model.hidden + q + model.hidden + model.ffn_hidden
    outputs = q + 2 * kv + model.hidden + 2 * model.ffn_hidden + model.hidden
    weights = model.hidden * (q + 2 * kv) + q * model.hidden + 3 * model.hidden * model.ffn_hidden
    cast = [each.nbytes for each in kernels(scenario) if isinstance(each, Stream) and each.cause == "cast"]
    assert sum(cast) == (2 + 1 + 1) * model.num_layers * (tokens * (inputs + outputs) + weights)


def test_weights_are_cast_once_for_all_microbatches(small: Make) -> None:
    def weight_casts(batch: int) -> int:
        return sum(each.name == "weight cast" for each in kernels(small(FP8 | {"training.global_batch": batch})))

    assert weight_casts(64) == weight_casts(16) > 0


@pytest.mark.parametrize("recipe", ["current", "blockwise", "mxfp8"])
def test_other_scales_take_more_than_a_delayed_one(small: Make, recipe: str) -> None:
    assert moved(small(FP8 | {"training.recipe": recipe})) > moved(small(FP8 | {"training.recipe": "delayed"}))


def test_sequence_parallelism_gathers_what_was_cast(small: Make) -> None:
    split = {"layout.tp": 2, "layout.sequence_parallel": True}

    def largest(settings: dict[str, object]) -> dict[str, float]:
        calls = [
            each for each in payloads(small(split | settings)) if isinstance(each, Collective) and each.kind == "tp"
        ]
        ops = {each.op for each in calls}
        return {op: max(each.nbytes for each in calls if each.op == op) for op in ops}

    gathered = [
        sorted(
            each.nbytes
            for each in payloads(small(split | settings))
            if isinstance(each, Collective) and (each.kind, each.op) == ("tp", "all_gather")
        )
        for settings in ({}, FP8)
    ]
    assert len(gathered[0]) == len(gathered[1])
    assert gathered[1][0] == gathered[0][0] / 2
    assert largest(FP8)["reduce_scatter"] == largest({})["reduce_scatter"]


@pytest.mark.parametrize(
    ("modules", "names"),
    [
        (["core_attention"], {"attention forward"}),
        (["norm"], {"attention norm forward", "mlp norm forward"}),
        (["activation"], {"activation forward"}),
        (["norm", "mlp"], {"attention norm forward", "mlp norm forward", "mlp up forward", "activation forward"}),
    ],
)
def test_selective_recomputation_runs_its_modules_again_and_nothing_else(
    small: Make, modules: list[str], names: set[str]
) -> None:
    scenario = small({"training.recompute": "selective", "training.recompute_modules": modules})
    again = {kernel.name for kernel in kernels(scenario, recomputed=True)}
    assert names <= again <= names | {"mlp down forward"}


def test_full_recomputation_runs_as_many_layers_again_as_it_is_told(small: Make) -> None:
    def again(num: int | None) -> float:
        given = {} if num is None else {"training.recompute_layers": num}
        return total_flop(small({"training.recompute": "full"} | given), recomputed=True)

    layers = small().model.num_layers
    assert again(1) == pytest.approx(again(None) / layers)
    assert again(layers) == again(None)


def test_scattered_sends_carry_a_part_that_the_receivers_gather(small: Make) -> None:
    split = {"layout.tp": 4, "layout.pp": 2}

    def sent(how: str) -> tuple[float, int]:
        calls = list(payloads(small(split | {"stack.sends": how})))
        gathers = sum(isinstance(each, Collective) and each.op == "all_gather" and each.kind == "tp" for each in calls)
        return sum(each.nbytes for each in calls if isinstance(each, Send)), gathers

    whole, scattered = sent("whole"), sent("scattered")
    assert scattered[0] == pytest.approx(whole[0] / 4)
    assert (whole[1], scattered[1]) == (0, 2 * 16)


def test_an_offloaded_update_runs_on_the_host_between_two_copies(small: Make) -> None:
    found = kernels(small({"training.optimizer.offload": True}))
    names = [type(each) for each in found if isinstance(each, (Copy, HostUpdate))]
    assert names == [Copy, HostUpdate, Copy]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"training.recipe": "mxfp8"}, "allowed none: 16-bit values need no scale"),
        (FP8 | {"training.recipe": "nvfp4"}, "allowed delayed, current, blockwise, mxfp8"),
        ({"training.low_precision_weights": True}, "allowed with fp8, fp4"),
        ({"training.recompute_modules": ["norm"]}, "allowed with selective"),
        ({"training.recompute_layers": 1}, "allowed with full"),
        (FP8 | {"stack": "fsdp"}, "fsdp does not train in fp8 (allowed bf16, fp16)"),
        ({"stack": "megatron"}, "unknown stack"),
    ],
)
def test_what_does_not_belong_together_is_refused(small: Make, settings: dict[str, object], message: str) -> None:
    with pytest.raises(SimError, match=message.replace("(", r"\(").replace(")", r"\)")):
        small(settings)
