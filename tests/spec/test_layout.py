import itertools

import numpy as np
import pytest

from sim.spec.layout import (
    AXES,
    CountedEnds,
    Layout,
    StageLayers,
    coordinates,
    edp,
    groups,
    layers_of_stages,
    num_ranks,
    num_stages,
)


def layout(**fields):
    return Layout(**{"schedule": "1f1b", "dp": 1} | fields)


def test_ranks_are_tp_times_cp_times_dp_times_pp():
    assert num_ranks(layout(tp=2, cp=3, dp=5, pp=7)) == 210


def test_expert_replicas_fold_over_the_same_ranks():
    # tp * cp * dp = 2 * 1 * 8 = 16 ranks of a stage hold etp * ep = 1 * 4.
    assert edp(layout(tp=2, dp=8, pp=2, ep=4)) == 4


def test_the_leftmost_axis_is_innermost():
    assert groups(layout(tp=2, dp=2, pp=2), "tp").tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert groups(layout(tp=2, dp=2, pp=2, order="dp-cp-ep-tp-pp"), "tp").tolist() == [[0, 2], [1, 3], [4, 6], [5, 7]]
    assert groups(layout(tp=2, dp=2, pp=2, order="pp-tp-cp-ep-dp"), "pp").tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]


def test_an_axis_of_size_one_may_be_left_out_of_the_order():
    assert groups(layout(tp=2, dp=2, order="tp-dp"), "dp_cp").tolist() == [[0, 2], [1, 3]]


@pytest.mark.parametrize("order", ["-".join(axes) for axes in itertools.permutations(["tp", "cp", "dp", "pp"])])
@pytest.mark.parametrize("axis", ["tp", "cp", "dp", "pp", "dp_cp", "model", "world", "ep", "etp", "edp"])
def test_groups_of_an_axis_partition_the_ranks(order, axis):
    members = groups(layout(tp=2, cp=2, dp=3, pp=2, ep=2, etp=2, order=order), axis)
    assert sorted(members.ravel().tolist()) == list(range(24))


@pytest.mark.parametrize("order", ["tp-cp-ep-dp-pp", "tp-cp-ep-pp-dp", "dp-cp-ep-tp-pp", "pp-dp-tp-cp"])
def test_tensor_and_data_groups_stay_in_one_pipeline_stage(order):
    plan = layout(tp=2, cp=2, dp=3, pp=4, order=order)
    stage = coordinates(plan, "pp")
    for axis in ("tp", "cp", "dp", "dp_cp", "edp"):
        assert all(np.unique(stage[group]).size == 1 for group in groups(plan, axis))
    assert all(stage[group].tolist() == [0, 1, 2, 3] for group in groups(plan, "pp"))


def test_two_groups_of_different_axes_share_one_rank_at_most():
    plan = layout(tp=2, cp=2, dp=3, pp=2)
    for one, other in itertools.combinations([axis for axis in AXES if axis != "ep"], 2):
        for first, second in itertools.product(groups(plan, one).tolist(), groups(plan, other).tolist()):
            assert len(set(first) & set(second)) <= 1


def test_layers_spread_evenly_over_virtual_stages():
    assert num_stages(layout(pp=2, vpp=2)) == 4
    assert [len(stage) for stage in layers_of_stages(layout(pp=2, vpp=2), 8)] == [2, 2, 2, 2]


def test_layers_of_each_stage_can_be_listed():
    assert layers_of_stages(layout(pp=3, stage_layers=(1, 3, 2)), 6) == (range(1), range(1, 4), range(4, 6))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pp": 4}, r"10 layers over pp \* vpp = 4 \* 1 = 4 stages do not divide evenly; list the layers of each"),
        (
            {"pp": 2, "stage_layers": (5, 4)},
            r"2 entries with 9 layers in all, but pp \* vpp = 2 \* 1 = 2 stages and 10",
        ),
        (
            {"pp": 3, "stage_layers": (5, 5)},
            r"2 entries with 10 layers in all, but pp \* vpp = 3 \* 1 = 3 stages and 10",
        ),
        ({"pp": 1, "stage_layers": StageLayers(first=5, last=5)}, "need two stages or more"),
        ({"pp": 4, "stage_layers": StageLayers(first=1, last=2)}, r"10 - 1 - 2 = 7 layers over the 4 - 2 = 2 stages"),
        ({"pp": 4, "stage_layers": StageLayers(first=8, last=8)}, "first 8 and last 8 of 10 layers"),
    ],
)
def test_layers_that_cannot_be_divided_are_refused_with_the_equation(fields, message):
    with pytest.raises(ValueError, match=message):
        layers_of_stages(layout(**fields), 10)


@pytest.mark.parametrize(
    ("embedding", "loss", "expected"),
    [(True, True, [7, *[8] * 14, 7]), (True, False, None), (False, False, None)],
)
def test_embedding_and_loss_may_count_as_a_layer_each(embedding, loss, expected):
    """126 layers over 16 stages, as NVIDIA's MLPerf Training submissions of Llama 3.1 405B split them."""
    counted = CountedEnds(account_for_embedding=embedding, account_for_loss=loss)
    if expected is None:
        with pytest.raises(ValueError, match="do not divide evenly"):
            layers_of_stages(layout(pp=16, stage_layers=counted), 126)
    else:
        stages = layers_of_stages(layout(pp=16, stage_layers=counted), 126)
        assert [len(stage) for stage in stages] == expected


def test_with_chunks_the_first_and_the_last_virtual_stage_count_them():
    counted = CountedEnds(account_for_embedding=True, account_for_loss=True)
    stages = layers_of_stages(layout(pp=2, vpp=2, stage_layers=counted), 10)
    assert [len(stage) for stage in stages] == [2, 3, 3, 2]


def test_both_ends_on_one_stage_need_a_layer_more():
    counted = CountedEnds(account_for_embedding=True, account_for_loss=True)
    assert [len(stage) for stage in layers_of_stages(layout(stage_layers=counted), 4)] == [4]


def test_groups_of_copies_join_a_group_with_its_mirror_image_in_the_other_half_of_the_pipeline() -> None:
    """By hand: ranks 0 1 | 2 3 | 4 5 | 6 7 are the four stages of dp 2; stage 0 lies on the first and on the last."""
    four = layout(dp=2, pp=4)
    assert groups(four, "dp_cp_copies").tolist() == [[0, 1, 6, 7], [2, 3, 4, 5]]
    experts = layout(dp=4, pp=2, ep=2)
    assert groups(experts, "edp").tolist() == [[0, 2], [1, 3], [4, 6], [5, 7]]
    assert groups(experts, "edp_copies").tolist() == [[0, 2, 4, 6], [1, 3, 5, 7]]
