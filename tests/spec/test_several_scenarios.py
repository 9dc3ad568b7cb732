import pytest

from sim.errors import SimError
from sim.spec.load import load, load_all, load_points

pytestmark = pytest.mark.usefixtures("here")


def complaints(function, *arguments):
    with pytest.raises(SimError) as caught:
        function(*arguments)
    return str(caught.value).splitlines()


@pytest.fixture
def write(here):
    """Writes x.yaml, which extends the valid base.yaml."""

    def writer(text):
        (here / "x.yaml").write_text(f"extends: base.yaml\n{text}")

    return writer


def test_a_plain_file_is_a_list_of_one():
    assert [scenario.title for scenario in load_all("base.yaml")] == ["base"]


def test_each_variant_is_laid_on_the_file_in_its_order(write):
    write("variants:\n  b: {layout: {tp: 4, dp: 1}}\n  a: {layout: {zero: 1}}\n  c: {}\n")
    scenarios = load_all("x.yaml")
    assert [scenario.title for scenario in scenarios] == ["x/b", "x/a", "x/c"]
    assert [(each.layout.tp, each.layout.dp, each.layout.zero) for each in scenarios] == [
        (4, 1, 0),
        (2, 2, 1),
        (2, 2, 0),
    ]


def test_settings_lie_on_every_variant(write):
    write("variants:\n  a: {training: {micro_batch: 2}}\n  b: {}\n")
    scenarios = load_all("x.yaml", ["training.micro_batch=4", "layout.zero=1"])
    assert [(each.training.micro_batch, each.layout.zero) for each in scenarios] == [(4, 1), (4, 1)]


def test_variants_may_complete_what_the_file_leaves_out(here, scenario_text):
    (here / "x.yaml").write_text(
        scenario_text.replace("  schedule: 1f1b\n", "") + "variants: {a: {layout: {schedule: gpipe}}}"
    )
    assert load_all("x.yaml")[0].layout.schedule == "gpipe"


def test_a_mistake_that_all_variants_share_is_told_once_and_others_name_theirs(write):
    write("seed: -1\nvariants:\n  a: {layout: {tpp: 2}}\n  b: {}\n")
    assert [error.split(" (")[0] for error in complaints(load_all, "x.yaml")] == [
        "x.yaml:2:1: seed: out of range",
        "x.yaml:4:16: layout.tpp: unknown key",
    ]
    assert complaints(load_all, "x.yaml")[1].endswith("did you mean 'tp'?) [variant a]")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "variants: [a, b]\n",
            "x.yaml:2:1: variants: wrong type (got ['a', 'b'], allowed a mapping of names to overrides)",
        ),
        ("variants: {}\n", "x.yaml:2:1: variants: wrong type (got an empty mapping, allowed a mapping"),
        ("variants: {a: 3}\n", "x.yaml:2:12: variants.a: wrong type (got 3, allowed a mapping of overrides)"),
        ('variants: {"": {}}\n', "x.yaml:2:12: variants: wrong name (got '', allowed text on one line)"),
        ('variants: {"a\\nb": {}}\n', "x.yaml:2:12: variants: wrong name (got 'a\\nb', allowed text on one line)"),
        ("variants: {a: {variants: {}}}\n", "x.yaml:2:16: variants: cannot stand inside a variant or a sweep"),
        ("variants: {a: {}}\nsweep: {}\n", "x.yaml:3:1: sweep: several scenarios"),
    ],
)
def test_malformed_variants_are_refused(write, text, message):
    write(text)
    assert complaints(load_all, "x.yaml")[0].startswith(message)


def values_of(points):
    return [tuple(point.values.values()) for point in points]


def test_a_product_has_every_combination_and_the_last_path_varies_fastest(write):
    write("sweep:\n  product:\n    layout.zero: [0, 1]\n    training.recompute: [none, full]\n")
    points = load_points("x.yaml")
    assert values_of(points) == [(0, "none"), (0, "full"), (1, "none"), (1, "full")]
    assert [point.scenario.layout.zero for point in points] == [0, 0, 1, 1]
    assert [point.scenario.training.recompute for point in points] == ["none", "full", "none", "full"]


def test_a_zip_goes_through_its_lists_together(write):
    write("sweep:\n  zip:\n    layout.tp: [1, 2, 4]\n    layout.dp: [4, 2, 1]\n")
    assert [point.scenario.layout.tp for point in load_points("x.yaml")] == [1, 2, 4]


def test_points_zip_and_product_multiply(write):
    write(
        "sweep:\n  points: [{seed: 1}, {seed: 2, layout.zero: 1}]\n"
        "  zip: {layout.tp: [1, 2], layout.dp: [4, 2]}\n  product: {training.micro_batch: [1, 2]}\n"
    )
    points = load_points("x.yaml")
    assert len(points) == 2 * 2 * 2
    assert points[0].values == {"seed": 1, "layout.tp": 1, "layout.dp": 4, "training.micro_batch": 1}
    assert points[-1].values == {"seed": 2, "layout.zero": 1, "layout.tp": 2, "layout.dp": 2, "training.micro_batch": 2}


def test_a_swept_value_may_be_a_mapping(write):
    write("sweep: {product: {layout: [{zero: 0}, {zero: 1, tp: 4, dp: 1}]}}\n")
    assert [(point.scenario.layout.zero, point.scenario.layout.tp) for point in load_points("x.yaml")] == [
        (0, 2),
        (1, 4),
    ]


def test_an_impossible_point_is_listed_with_its_reason(write):
    write("sweep:\n  product:\n    layout.pp: [2, 3]\n")
    good, bad = load_points("x.yaml")
    assert good.error is None
    assert bad.scenario is None
    assert "tp * cp * dp * pp = 2 * 1 * 2 * 3 = 12, but the topology has 8 GPUs" in str(bad.error)
    assert "x.yaml:4:5: layout" in str(bad.error)


def test_a_mistake_of_every_point_is_the_files(write):
    write("seed: -1\nsweep:\n  product:\n    layout.pp: [2, 3]\n")
    assert complaints(load_points, "x.yaml") == ["x.yaml:2:1: seed: out of range (got -1, allowed >= 0)"]


def test_a_misspelt_path_is_the_files_mistake(write):
    write("sweep:\n  product:\n    layout.tpp: [2, 3]\n")
    assert complaints(load_points, "x.yaml")[0].startswith(
        "x.yaml:4:5: layout.tpp: unknown key (got 'tpp', allowed tp, "
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "x.yaml:1:1: sweep: missing: a file without it is played with `sim run`"),
        ("sweep: {}\n", "x.yaml:2:1: sweep: empty (allowed product, zip or points)"),
        ("sweep: 3\n", "x.yaml:2:1: sweep: wrong type (got 3, allowed a mapping of keys to values)"),
        ("sweep: {prodct: {seed: [1]}}\n", "x.yaml:2:9: sweep.prodct: unknown key (got 'prodct', allowed product, zip"),
        ("sweep: {product: {seed: 1}}\n", "x.yaml:2:19: sweep.product.seed: wrong type (got 1, allowed a list)"),
        ("sweep: {product: {seed: []}}\n", "x.yaml:2:19: sweep.product.seed: empty (allowed one value or more)"),
        (
            "sweep: {zip: {seed: [1], gpu: [a, b]}}\n",
            "x.yaml:2:1: sweep.zip: lists of different lengths (seed has 1, gpu has 2)",
        ),
        (
            "sweep: {zip: {seed: [1]}, product: {seed: [1]}}\n",
            "x.yaml:2:1: sweep: seed stands in more than one of product,",
        ),
        ("sweep: {product: {sweep.zip: [1]}}\n", "x.yaml:2:19: sweep: cannot stand inside a variant or a sweep"),
        ("variants: {a: {}}\n", "x.yaml:2:1: variants: no sweep: compare them with `sim compare`"),
        (
            "sweep: {product: {layout: [{tp: 2}], layout.tp: [1]}}\n",
            "x.yaml:2:1: sweep: layout holds layout.tp, which the sweep sets too",
        ),
        (
            "sweep: {points: [{model: llama2-7b}], zip: {model.vocab: [1]}}\n",
            "x.yaml:2:1: sweep: model holds model.vocab, which the sweep sets too",
        ),
        ("sweep: {product: {tp: [1]}}\n", "x.yaml:2:19: tp: unknown key (got 'tp', did you mean 'layout.tp'?)"),
        ("sweep: {product: {seed: [1]}}\nvariants: {}\n", "x.yaml:3:1: variants: a sweep beside it"),
    ],
)
def test_a_malformed_sweep_is_refused(write, text, message):
    write(text)
    assert complaints(load_points, "x.yaml")[0].startswith(message)


def test_a_sweep_with_too_many_points_is_refused_before_it_is_unrolled(write):
    lists = "".join(f"    p{i}: [{', '.join(map(str, range(20)))}]\n" for i in range(40))
    write(f"sweep:\n  product:\n{lists}")
    assert f"too many points (got {20**40}, allowed up to 100000)" in complaints(load_points, "x.yaml")[0]


def test_one_variant_of_a_file_is_loaded_by_its_name() -> None:
    name = "llama2-70b_128xh100_layouts"
    one = load(name, variant="tp2-pp8-dp8")
    assert one in load_all(name)
    assert (one.variant, one.layout.tp, one.layout.pp) == ("tp2-pp8-dp8", 2, 8)
    assert load(name, ["layout.zero=0"], variant="tp2-pp8-dp8").layout.zero == 0


def test_an_unknown_variant_is_answered_with_those_that_exist() -> None:
    with pytest.raises(SimError, match=r"unknown variant \(got 'tp2-pp8-dp', allowed .*did you mean 'tp2-pp8-dp8'\?"):
        load("llama2-70b_128xh100_layouts", variant="tp2-pp8-dp")
    with pytest.raises(SimError, match=r"variants: the file has no variants \(got variant 'a'"):
        load("llama2-7b_8xa100_zero3", variant="a")
