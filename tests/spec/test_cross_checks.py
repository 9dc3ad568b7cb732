"""Every rule about how the parts of a scenario fit each other, with the numbers of its message."""

import pytest

from sim.errors import SimError
from sim.spec.check import RULES
from sim.spec.load import load

pytestmark = pytest.mark.usefixtures("here")

ORDERS = "allowed an order of tp-cp-ep-dp-pp)"
MOE = {
    "model.experts": {"num_experts": 4, "top_k": 2, "ffn_hidden": 32, "shared_ffn_hidden": 32},
    "layout.sequence_parallel": True,
}


def complaints(settings):
    with pytest.raises(SimError) as caught:
        load("base.yaml", settings)
    return [f"{problem.path.removeprefix('--set ')}: {problem.message}" for problem in caught.value.problems]


# The base scenario: 8 GPUs, tp 2, dp 2, pp 2; 4 layers, 8 heads, 4 key and value heads, ffn 128, sequence 128, batch 8.
REFUSED = [
    ({"layout.pp": 1}, "layout: tp * cp * dp * pp = 2 * 1 * 2 * 1 = 4, but the topology has 8 GPUs"),
    (
        {"layout.dp": None, "layout.tp": 1, "layout.cp": 3},
        "layout: dp cannot be derived: tp * cp * pp = 1 * 3 * 2 = 6 does not divide the topology's 8 GPUs",
    ),
    (MOE | {"layout.ep": 8}, "layout.ep: etp * ep = 1 * 8 = 8 does not divide tp * cp * dp = 2 * 1 * 2 = 4"),
    (MOE | {"layout.etp": 8}, "layout.etp: etp * ep = 8 * 1 = 8 does not divide tp * cp * dp = 2 * 1 * 2 = 4"),
    (MOE | {"layout.ep": 3}, "layout.ep: ep = 3 does not divide num_experts = 4"),
    (MOE | {"layout.etp": 3}, "layout.etp: etp = 3 does not divide the experts' ffn_hidden = 32"),
    (MOE | {"model.experts.shared_ffn_hidden": 5}, "layout.tp: tp = 2 does not divide shared_ffn_hidden = 5"),
    ({"layout.ep": 2}, "layout.ep: ep = 2 needs a model with experts, tiny has none"),
    ({"layout.etp": 2}, "layout.etp: etp = 2 needs a model with experts, tiny has none"),
    (
        {"layout.order": "tp-cp-xp-dp-pp"},
        "layout.order: no axis 'xp' (got 'tp-cp-xp-dp-pp', allowed an order of tp-cp-ep-dp-pp)",
    ),
    (
        {"layout.order": "tp-dp-tp-pp"},
        "layout.order: tp stands twice (got 'tp-dp-tp-pp', allowed an order of tp-cp-ep-dp-pp)",
    ),
    (
        {"layout.order": "tp-dp"},
        f"layout.order: pp = 2 is missing; only axes of size 1 may be left out (got 'tp-dp', {ORDERS}",
    ),
    (
        MOE | {"layout.ep": 2, "layout.order": "tp-dp-ep-pp"},
        f"layout.order: ep must stand left of dp, as experts lie on neighbouring ranks (got 'tp-dp-ep-pp', {ORDERS}",
    ),
    ({"layout.tp": 16}, "layout.tp: tp = 16 does not divide num_heads = 8"),
    (
        {"model.num_heads": 12, "model.num_kv_heads": 6, "layout.tp": 4},
        "layout.tp: tp = 4 and num_kv_heads = 6: neither divides the other",
    ),
    ({"model.ffn_hidden": 129}, "layout.tp: tp = 2 does not divide ffn_hidden = 129"),
    ({"training.seq_len": 127, "layout.cp": 2}, "layout.cp: cp = 2 does not divide seq_len = 127"),
    (
        {"training.seq_len": 126, "layout.cp": 2, "layout.cp_method": "ring", "layout.dp": 1},
        "layout.cp: 2 * cp = 4 chunks of a balanced ring do not divide seq_len = 126",
    ),
    (
        {"layout.cp": 2, "layout.dp": 1, "layout.cp_inner": 2},
        "layout.cp_inner: cp_inner with cp_method = all_gather (allowed with ulysses_ring, ulysses_all_gather)",
    ),
    (
        {"layout.cp": 2, "layout.dp": 1, "layout.cp_method": "ulysses_ring"},
        "layout.cp_inner: cp_method = ulysses_ring needs cp_inner, ranks of an inner group",
    ),
    (
        {"layout.cp": 2, "layout.dp": 1, "layout.cp_method": "ulysses_ring", "layout.cp_inner": 2},
        "layout.cp_inner: cp_inner = 2 is no part of cp = 2 (allowed a divisor between 1 and 2)",
    ),
    (
        {"layout.cp": 8, "layout.tp": 1, "layout.pp": 1, "layout.dp": 1, "layout.cp_method": "ulysses"}
        | {"model.num_heads": 12},
        "layout.cp: cp = 8 does not divide num_heads / tp = 12 / 1 = 12",
    ),
    (
        {"layout.cp": 4, "layout.dp": 1, "layout.tp": 1, "layout.cp_method": "ulysses"}
        | {"model.num_heads": 12, "model.num_kv_heads": 6},
        "layout.cp: cp = 4 and key and value heads / tp = 6: neither divides the other",
    ),
    (
        {"training.seq_len": 126, "layout.cp": 2, "layout.sequence_parallel": True},
        "layout.sequence_parallel: tp = 2 does not divide seq_len / cp = 126 / 2 = 63",
    ),
    (
        {"training.overlap.tensor_chunks": 4},
        "training.overlap.tensor_chunks: tensor_chunks goes with layout.sequence_parallel (got false, allowed true)",
    ),
    (
        {"training.overlap.tensor_chunks": 3, "layout.sequence_parallel": True},
        (
            "training.overlap.tensor_chunks: "
            "tensor_chunks = 3 does not divide micro_batch * seq_len / cp = 1 * 128 / 1 = 128"
        ),
    ),
    (
        {"topology": {"use": "dgx-h100", "nodes": 2}, "layout.tp": 2, "layout.dp": 8, "layout.pp": 1}
        | {"layout.sequence_parallel": True, "layout.order": "dp-tp-pp", "training.overlap.tensor_chunks": 4},
        "training.overlap.tensor_chunks: tensor_chunks needs tp groups in one node (got tp = 2, order dp-tp-pp)",
    ),
    (
        {"layout.tp": 1, "layout.dp": 4, "layout.sequence_parallel": True},
        "layout.sequence_parallel: sequence_parallel goes with tensor parallelism (got tp = 1, allowed tp > 1)",
    ),
    (
        {"model.learned_positions": True, "training.seq_len": 256},
        "training.seq_len: seq_len = 256 is more than the model's 128 learned positions",
    ),
    (
        {"training.global_batch": 9, "training.micro_batch": 2},
        "training.global_batch: global_batch = 9 is no multiple of dp * micro_batch = 2 * 2 = 4",
    ),
    (
        {"training.global_batch": 40_000},
        (
            "training.global_batch: global_batch / (dp * micro_batch) = 40000 / 2 = 20000 micro-batches, "
            "allowed up to 16384"
        ),
    ),
    (
        {"model.num_layers": 5},
        "layout: 5 layers over pp * vpp = 2 * 1 = 2 stages do not divide evenly; list the layers of each",
    ),
    (
        {"layout.stage_layers": [1, 2]},
        "layout.stage_layers: 2 entries with 3 layers in all, but pp * vpp = 2 * 1 = 2 stages and 4 layers",
    ),
    ({"layout.vpp": 10**9}, "layout: pp * vpp = 2 * 1000000000 = 2000000000 stages, allowed up to 65536"),
    (
        {"layout.zero": 3, "training.bucket": "25 MB"},
        "training.bucket: zero = 3 reduces layer by layer, without buckets (allowed with zero 0, 1 or 2)",
    ),
    (
        {"training.prefetch_layers": 1},
        "training.prefetch_layers: zero = 0 gathers no layers ahead (allowed with zero 3)",
    ),
    (
        {"training.recompute": "selective", "training.recompute_modules": ["norm", "moe"]},
        "training.recompute_modules: tiny has no moe",
    ),
]


@pytest.mark.parametrize(("settings", "message"), REFUSED)
def test_what_does_not_fit_is_refused_with_its_numbers(settings, message):
    assert message in complaints(settings)


def test_a_precision_that_the_gpu_does_not_have_is_refused():
    (message,) = complaints({"gpu": "v100-sxm2"})
    assert message.startswith("training.precision: v100-sxm2 has no bf16 (allowed fp16")


ACCEPTED = [
    {"model.vocab": 1001},
    {"layout.tp": 8, "layout.dp": 1, "layout.pp": 1},
    {"model.num_kv_heads": 1},
    {"layout.order": "pp-dp-tp"},
    {"layout.order": "tp-dp-ep-pp"},
    {"training.seq_len": 256},
    {"layout.dp": None},
    {"layout.zero": 3, "training.prefetch_layers": 2},
    {"layout.zero": 1, "training.overlap.param_gather": False, "training.bucket": "25 MB"},
    {"model.num_layers": 5, "layout.stage_layers": [2, 3]},
    {"model.num_layers": 5, "layout.stage_layers": {"first": 2, "last": 3}},
    MOE | {"layout.ep": 2, "layout.etp": 2},
    MOE | {"layout.ep": 4, "model.ffn_hidden": 129},
]


@pytest.mark.parametrize("settings", ACCEPTED)
def test_what_fits_loads(settings):
    assert load("base.yaml", settings).layout.dp is not None


def test_the_rules_are_all_named_by_their_parts():
    parts = frozenset({"model", "gpu", "topology", "layout", "training", "conditions"})
    assert all(reads and reads <= parts for reads in RULES.values())


def test_rules_run_on_the_parts_that_are_right():
    assert complaints({"gpu": "none-such", "layout.tp": 16})[1:] == [
        "layout.tp: tp = 16 does not divide num_heads = 8",
        "layout: tp * cp * dp * pp = 16 * 1 * 2 * 2 = 64, but the topology has 8 GPUs",
    ]
