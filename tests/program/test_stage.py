"""What data parallelism and ZeRO add to the blocks of a stage."""

from collections import Counter
from collections.abc import Callable

import pytest

from sim.program.lower import lower
from sim.program.operations import Collective, Send
from sim.program.program import Program
from sim.program.table import RELEASES, actions_of
from sim.spec.scenario import Scenario

Make = Callable[[dict[str, object]], Scenario]
DP = {"layout.dp": 16, "training.grad_precision": "bf16"}
PADDED_VOCABULARY = 32000
LAYER = 2 * 1024 * 1024 + 2 * 1024 * 512 + 3 * 1024 * 4096 + 2 * 1024
PARAMETERS = 4 * LAYER + 2 * PADDED_VOCABULARY * 1024 + 1024


def program(scenario: Scenario) -> Program:
    return lower(scenario, scenario.topology.build(), "folded")


def data_parallel_bytes(scenario: Scenario) -> dict[tuple[str, str], float]:
    """Bytes that one rank passes to data-parallel collectives in a step, by kind and op."""
    played = program(scenario)
    total: dict[tuple[str, str], float] = {}
    for number in played.payload.tolist():
        payload = played.payloads[number]
        if isinstance(payload, Collective) and payload.kind.startswith("dp"):
            key = (payload.kind, payload.op)
            total[key] = total.get(key, 0.0) + payload.nbytes
    return total


def test_without_zero_gradients_are_reduced_once_a_step(small: Make) -> None:
    for batch in (16, 64):
        found = data_parallel_bytes(small(DP | {"layout.zero": 0, "training.global_batch": batch}))
        assert found == {("dp_reduce", "all_reduce"): pytest.approx(2 * PARAMETERS)}


@pytest.mark.parametrize("gathers_ahead", [True, False])
def test_zero_1_scatters_gradients_and_gathers_parameters_once_a_step(small: Make, gathers_ahead: bool) -> None:
    changes = DP | {"layout.zero": 1, "training.overlap.param_gather": gathers_ahead, "training.global_batch": 64}
    assert data_parallel_bytes(small(changes)) == {
        ("dp_reduce", "reduce_scatter"): pytest.approx(2 * PARAMETERS),
        ("dp_gather", "all_gather"): pytest.approx(2 * PARAMETERS),
    }


def test_zero_2_scatters_gradients_in_every_microbatch(small: Make) -> None:
    found = data_parallel_bytes(small(DP | {"layout.zero": 2, "training.global_batch": 64}))
    assert found["dp_reduce", "reduce_scatter"] == pytest.approx(4 * 2 * PARAMETERS)
    assert found["dp_gather", "all_gather"] == pytest.approx(2 * PARAMETERS)


def wire_bytes(found: dict[tuple[str, str], float]) -> float:
    """Volume as the ZeRO paper counts it: an all_reduce is a reduce_scatter and an all_gather."""
    return sum(nbytes * (2 if op == "all_reduce" else 1) for (_, op), nbytes in found.items())


def test_zero_3_moves_one_and_a_half_times_the_bytes_of_zero_0(small: Make) -> None:
    """One micro-batch, one number format on the wire, no pipeline (ZeRO, arXiv 1910.02054 section 7.2.2)."""
    one_microbatch = DP | {"training.global_batch": 16}
    zero_0 = wire_bytes(data_parallel_bytes(small(one_microbatch | {"layout.zero": 0})))
    zero_3 = wire_bytes(data_parallel_bytes(small(one_microbatch | {"layout.zero": 3})))
    assert zero_3 == pytest.approx(1.5 * zero_0, rel=1e-9)


def test_zero_3_gathers_for_every_microbatch(small: Make) -> None:
    found = data_parallel_bytes(small(DP | {"layout.zero": 3, "training.global_batch": 64}))
    assert found["dp_gather", "all_gather"] == pytest.approx(4 * 2 * 2 * PARAMETERS)


def test_gradients_wait_in_buckets_of_the_given_size(small: Make) -> None:
    def num_reductions(bucket: str) -> int:
        played = program(small(DP | {"training.bucket": bucket}))
        kinds = [getattr(played.payloads[number], "kind", "") for number in played.payload.tolist()]
        return kinds.count("dp_reduce")

    # Head, four layers of 29 MB in bf16, embedding: each its own, or all in one.
    assert num_reductions("1 MB") == 6
    assert num_reductions("10 GB") == 1


def test_experts_are_reduced_over_their_own_replicas(small: Make) -> None:
    experts = {"num_experts": 8, "top_k": 2, "ffn_hidden": 512}
    changes = {"layout.ep": 4, "layout.zero": 0, "model.experts": experts, "training.bucket": "10 GB"}
    played = program(small(DP | changes))
    groups = {
        payload.group: payload.nbytes
        for payload in played.payloads
        if isinstance(payload, Collective) and payload.kind == "dp_reduce"
    }
    assert groups["edp"] == pytest.approx(2 * 4 * (8 / 4) * 3 * 1024 * 512, rel=1e-9)
    assert "dp_cp" in groups


def test_tied_embeddings_are_summed_between_the_first_and_the_last_stage(small: Make) -> None:
    changes = {"layout.pp": 2, "model.tied_embeddings": True}
    kinds = [getattr(payload, "kind", "") for payload in program(small(changes)).payloads]
    assert "embedding" in kinds
    kinds = [getattr(payload, "kind", "") for payload in program(small(changes | {"layout.pp": 1})).payloads]
    assert "embedding" not in kinds


@pytest.mark.parametrize(("precision", "nbytes"), [("fp32", 46), ("bf16", 38)])
def test_the_optimizer_passes_over_gradients_in_their_own_format(small: Make, precision: str, nbytes: int) -> None:
    """30 bytes of Adam's state and four passes over the gradient, for every parameter without sharding."""
    payloads = program(small({"training.grad_precision": precision, "layout.zero": 0})).payloads
    kernels = [kernel for payload in payloads for kernel in getattr(payload, "kernels", ())]
    update = next(kernel for kernel in kernels if kernel.name == "optimizer")
    assert update.nbytes == pytest.approx(nbytes * PARAMETERS)


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
@pytest.mark.parametrize(("split", "full", "vpp"), [("zb_h1", "1f1b", 1), ("zb_v", "interleaved_1f1b", 2)])
def test_split_backward_passes_move_and_compute_what_full_ones_do(
    small: Make, zero: int, split: str, full: str, vpp: int
) -> None:
    changes = {"layout.pp": 2, "layout.vpp": vpp, "layout.dp": 8, "layout.zero": zero, "training.global_batch": 32}
    one, other = (small(changes | {"layout.schedule": name}) for name in (split, full))
    found, expected = data_parallel_bytes(one), data_parallel_bytes(other)
    assert found == {key: pytest.approx(value) for key, value in expected.items()}
    assert kernels_of(one) == kernels_of(other)
    assert sends_of(one) == sends_of(other) - (2 * 4 if split == "zb_v" else 0)


def kernels_of(scenario: Scenario) -> Counter[str]:
    """Kernels of all pipeline ranks, but those of the optimizer, by name."""
    played = program(scenario)
    payloads = [played.payloads[number] for number in played.payload.tolist()]
    return Counter(kernel.name for payload in payloads for kernel in getattr(payload, "kernels", ()))


def sends_of(scenario: Scenario) -> int:
    """A V has no hop between the two chunks of its last rank: for every micro-batch one less, each way."""
    played = program(scenario)
    return sum(isinstance(played.payloads[number], Send) for number in played.payload.tolist())


@pytest.mark.parametrize(("schedule", "vpp"), [("zb_h1", 1), ("zb_v", 2), ("dualpipe_v", 2), ("dualpipe", 1)])
def test_gradients_are_reduced_in_the_last_pass_that_adds_to_them(small: Make, schedule: str, vpp: int) -> None:
    changes = {"layout.pp": 2, "layout.vpp": vpp, "layout.dp": 8, "layout.schedule": schedule}
    played = program(small(changes | {"training.global_batch": 32}))
    for rank in played.ranks:
        own = range(rank.first, rank.end)
        kinds = [getattr(played.payloads[played.payload[slot]], "kind", "") for slot in own]
        reducing = {
            rank.actions[played.block[slot]] for slot, kind in zip(own, kinds, strict=True) if kind == "dp_reduce"
        }
        cells = [cell for cell in rank.actions if cell is not None]
        done = [(action.stage, cell) for cell in cells for action in actions_of([cell]) if action.kind in RELEASES]
        last = dict(done)
        assert reducing == set(last.values())
