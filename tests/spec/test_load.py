import json
import subprocess
import sys

import pytest

from sim.errors import SimError
from sim.spec.load import dump, load
from sim.spec.topology import FABRICS

pytestmark = pytest.mark.usefixtures("here")


def complaints(*arguments, **options):
    with pytest.raises(SimError) as caught:
        load(*arguments, **options)
    return str(caught.value).splitlines()


def replaced(text, *pairs):
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new)
    return text


def test_a_scenario_is_called_as_its_file_unless_it_says_otherwise(here, scenario_text):
    assert load("base.yaml").title == "base"
    (here / "named.yaml").write_text("name: other\n" + scenario_text)
    assert load("named.yaml").title == "other"


def test_values_are_read_with_their_units_into_si():
    scenario = load("base.yaml")
    assert scenario.topology.nvlink.bytes_per_s == 450e9
    assert scenario.topology.nvlink.latency_s == pytest.approx(1e-6)
    assert scenario.gpu.memory_bytes == 80 * 2**30


def test_a_topology_is_an_instance_of_its_family():
    assert type(load("base.yaml").topology) is FABRICS["single_node"]


def test_dp_is_what_the_other_axes_leave_over(here, scenario_text):
    (here / "x.yaml").write_text(replaced(scenario_text, ("  dp: 2\n", "")))
    assert load("x.yaml").layout.dp == 2
    assert load("x.yaml", ["layout.pp=1"]).layout.dp == 4


def test_a_part_may_be_a_file_beside_the_scenario(here, scenario_text):
    text = replaced(scenario_text, ("gpu: h100-sxm", "gpu: {use: mine.yaml, memory: 40 GiB}"))
    (here / "sub").mkdir()
    (here / "sub" / "x.yaml").write_text(text)
    (here / "sub" / "mine.yaml").write_text("use: h100-sxm\n")
    message = complaints("sub/x.yaml")[0]
    assert message.startswith("sub/mine.yaml:1:1: gpu.use: unknown key (got 'use', allowed name, ")


def test_overrides_lie_on_a_named_part():
    scenario = load("base.yaml", {"model": {"use": "llama2-7b", "num_layers": 8}, "training.seq_len": 4096})
    assert (scenario.model.num_layers, scenario.model.hidden) == (8, 4096)


def test_a_part_that_names_itself_anew_keeps_nothing_of_the_old_one(here):
    (here / "x.yaml").write_text("extends: base.yaml\nmodel: {use: llama2-7b}\ntraining: {seq_len: 4096}\n")
    assert load("x.yaml").model == load("base.yaml", ["model=llama2-7b"]).model


def test_an_override_of_a_named_part_keeps_the_name():
    scenario = load("base.yaml", ["gpu.memory=40 GiB", "gpu.hbm=3 TB/s"])
    assert (scenario.gpu.name, scenario.gpu.memory_bytes, scenario.gpu.hbm_bytes_per_s) == (
        "h100-sxm",
        40 * 2**30,
        3e12,
    )


@pytest.mark.parametrize("key", ["model_type: gpt2\n  n_layer: 4\n  n_embd: 64\n  n_head: 8"])
def test_a_hugging_face_configuration_may_stand_in_the_file(here, scenario_text, key):
    start, end = scenario_text.index("  name: tiny"), scenario_text.index("gpu: h100")
    (here / "x.yaml").write_text(scenario_text[:start] + "  " + key + "\n" + scenario_text[end:])
    model = load("x.yaml").model
    assert (model.num_layers, model.hidden, model.ffn_hidden) == (4, 64, 256)


def test_a_model_may_be_the_path_of_a_config_json_with_overrides_in_our_terms(here):
    (here / "gpt2-tiny").mkdir()
    config = {"model_type": "gpt2", "n_layer": 4, "n_embd": 64, "n_head": 8, "vocab_size": 100, "n_positions": 128}
    (here / "gpt2-tiny" / "config.json").write_text(json.dumps(config))
    assert load("base.yaml", ["model=gpt2-tiny/config.json"]).model.name == "gpt2-tiny"
    overridden = {"model": {"use": "gpt2-tiny/config.json", "num_layers": 8}}
    assert load("base.yaml", overridden).model.num_layers == 8
    (error,) = complaints("base.yaml", {"model": {"use": "gpt2-tiny/config.json", "n_layer": 8}})
    assert error.startswith("--set model.n_layer: unknown key (got 'n_layer', allowed name, num_layers, ")


def test_a_mistake_in_a_config_json_stands_in_that_file(here):
    (here / "config.json").write_text('{"model_type": "gpt2",\n "n_layer": "four"}')
    (error,) = complaints("base.yaml", ["model=config.json"])
    assert error.startswith("config.json:2:2: model.n_layer: ")


@pytest.mark.parametrize(
    "config", ['{"model_type": ["gpt2"]}', '{"text_config": {"model_type": {"a": 1}}}', '{"a": 1}']
)
def test_a_config_json_of_no_known_type_is_refused(here, config):
    (here / "config.json").write_text(config)
    (error,) = complaints("base.yaml", ["model=config.json"])
    assert error.startswith("config.json:1:")
    assert "model_type" in error


def test_extends_goes_through_a_chain_and_replaces_lists(here):
    (here / "middle.yaml").write_text("extends: base.yaml\nlayout: {stage_layers: [1, 3], zero: 1}\nname: middle\n")
    (here / "top.yaml").write_text("extends: middle.yaml\nlayout: {stage_layers: [2, 2]}\n")
    scenario = load("top.yaml")
    assert (scenario.name, scenario.layout.stage_layers, scenario.layout.zero) == ("top", (2, 2), 1)


def test_extends_is_relative_to_its_file(here):
    (here / "sub").mkdir()
    (here / "sub" / "child.yaml").write_text("extends: ../base.yaml\nseed: 7\n")
    assert load("sub/child.yaml").seed == 7


def test_a_cycle_of_extends_is_refused(here):
    (here / "a.yaml").write_text("extends: b.yaml\n")
    (here / "b.yaml").write_text("seed: 1\nextends: a.yaml\n")
    assert complaints("a.yaml") == ["b.yaml:2:1: extends: comes back to itself (a.yaml -> b.yaml -> a.yaml)"]


def test_a_measurement_belongs_to_its_own_file(here, scenario_text):
    (here / "m.yaml").write_text(scenario_text + "measured: {step_time: 3.5 s, source: arXiv 0000.00000}\n")
    (here / "child.yaml").write_text("extends: m.yaml\n")
    assert load("m.yaml").measured.step_time_s == 3.5
    assert load("child.yaml").measured is None


def test_an_override_is_read_as_in_a_file():
    settings = ["seed=3", "network.algorithms.all_reduce=ring", "layout.stage_layers=[1, 3]", "name='8'"]
    scenario = load("base.yaml", settings)
    assert scenario.seed == 3
    assert scenario.network.algorithms.all_reduce == "ring"
    assert scenario.layout.stage_layers == (1, 3)
    assert scenario.name == "8"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("layout.tp", "--set needs a path and a value (got 'layout.tp', allowed such as layout.tp=4)"),
        ("=4", "--set needs a path and a value (got '=4', allowed such as layout.tp=4)"),
        ("layout..tp=4", "--set needs a path and a value (got 'layout..tp=4', allowed such as layout.tp=4)"),
        ("tp=4", "--set tp: unknown key (got 'tp', did you mean 'layout.tp'?)"),
        ("micro_batch=4", "--set micro_batch: unknown key (got 'micro_batch', did you mean 'training.micro_batch'?)"),
        ("sed=4", "--set sed: unknown key (got 'sed', allowed name, model, gpu, topology, stack, layout, training, "),
        ("layout.tp=x", "--set layout.tp: wrong type (got 'x', allowed a whole number)"),
        ("layout.zero=4", "--set layout.zero: wrong value (got 4, allowed 0, 1, 2 or 3)"),
        ("seed.x=1", "--set seed: wrong type (got a mapping with x, allowed a whole number)"),
        ("sweep.product=1", "--set sweep.product: cannot be set (allowed paths below name, model, gpu, topology,"),
        ("layout.stage_layers=[1", "--set layout.stage_layers: no valid YAML: "),
        ("gpu=h100-smx", "--set gpu: unknown gpu, no such file or name (got 'h100-smx', allowed "),
        ("topology.fabric=star", "--set topology.fabric: unknown fabric family (got 'star', allowed dragonfly, "),
        ("layout.tp=2=3", "--set layout.tp: wrong type (got '2=3', allowed a whole number)"),
        ("name=../../x", "--set name: wrong value (got '../../x', allowed a name without /, \\ or a leading dot)"),
    ],
)
def test_a_wrong_setting_is_told_as_one(setting, message):
    assert complaints("base.yaml", [setting])[0].startswith(message)


def test_every_mistake_of_a_file_is_told_at_once_in_reading_order(here, scenario_text):
    broken = replaced(
        scenario_text,
        ("  hidden: 64\n", ""),
        ("gpu: h100-sxm", "gpu: h100-smx"),
        ("450 GB/s", "450 Gbps"),
        ("efficiency: 0.8", "efficiency: 1.8"),
        ("  tp: 2", "  tpp: 2"),
        ("  schedule: 1f1b", "  schedule: true"),
        ("global_batch: 8", "global_batch: 0"),
        ("precision: bf16", "precision: bf61"),
    )
    (here / "broken.yaml").write_text(broken + "trainnig: {}\nseed: 1.5\n")
    assert [error.split(" (")[0] for error in complaints("broken.yaml")] == [
        "broken.yaml:2:1: model.hidden: missing",
        "broken.yaml:13:1: gpu: unknown gpu, no such file or name",
        "broken.yaml:18:12: topology.nvlink.bandwidth: wrong value",
        "broken.yaml:18:33: topology.nvlink.efficiency: out of range",
        "broken.yaml:21:3: layout.tpp: unknown key",
        "broken.yaml:24:3: layout.schedule: wrong type",
        "broken.yaml:27:3: training.global_batch: out of range",
        "broken.yaml:29:3: training.precision: wrong value",
        "broken.yaml:31:1: trainnig: unknown key",
        "broken.yaml:32:1: seed: wrong type",
    ]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("  tp: 2", "  tpp: 2", "unknown key (got 'tpp', allowed tp, sequence_parallel, cp, "),
        ("  tp: 2", "  tpp: 2", "did you mean 'tp'?)"),
        ("  tp: 2", "  tp: 0", "x.yaml:22:3: layout.tp: out of range (got 0, allowed >= 1)"),
        ("  tp: 2", "  tp: 2.0", "layout.tp: wrong type (got 2.0, allowed a whole number)"),
        ("  tp: 2", "  tp: true", "layout.tp: wrong type (got true, allowed a whole number)"),
        ("  tp: 2", "  zero: true", "layout.zero: wrong value (got True, allowed 0, 1, 2 or 3)"),
        ("gated_mlp: true", "gated_mlp: yes", "model.gated_mlp: wrong type (got 'yes', allowed true or false)"),
        ("gated_mlp: true", "gated_mlp: 1", "model.gated_mlp: wrong type (got 1, allowed true or false)"),
        ("efficiency: 0.8", "efficiency: true", "topology.nvlink.efficiency: wrong type (got true, allowed a number)"),
        (
            "efficiency: 0.8",
            "efficiency: '0.8'",
            "topology.nvlink.efficiency: wrong type (got '0.8', allowed a number)",
        ),
        ("efficiency: 0.8", "efficiency: 1e999", "topology.nvlink.efficiency: "),
        ("latency: 1 us", "latency: -1 us", "wrong value (got '-1 us', allowed a value such as '1.5 us')"),
        ("bf16", "bf61", "wrong value (got 'bf61', allowed 'bf16', 'fp16', 'fp8' or 'fp4', did you mean 'bf16'?)"),
        (
            "bandwidth: 450",
            "bandwdith: 450",
            "topology.nvlink.bandwdith: unknown key (got 'bandwdith', allowed bandwidth",
        ),
        (
            "layout:\n",
            "layout: 3\nextra:\n",
            "x.yaml:21:1: layout: wrong type (got 3, allowed a mapping of keys to values)",
        ),
        ("fabric: single_node", "fabric: [1]", "topology.fabric: wrong type (got [1], allowed dragonfly"),
        ("  fabric: single_node\n", "", "x.yaml:15:1: topology.fabric: missing (allowed dragonfly, "),
        ("gpu: h100-sxm", "gpu: [a]", "x.yaml:14:1: gpu: wrong type (got ['a'], allowed a name, or a mapping"),
        (
            "gpu: h100-sxm",
            "gpu: {use: 3}",
            "gpu.use: wrong type (got 3, allowed a name, or a mapping of keys to values)",
        ),
        ("gpu: h100-sxm\n", "", "x.yaml:2:1: gpu: missing (allowed a name of `sim list gpus`, or a mapping)"),
        ("nvlink.latency: x}", "}", "topology: no source for nvlink.latency"),
        (
            "  pp: 2",
            "  pp: 2\n  stage_layers: 4",
            "layout.stage_layers: wrong type (got 4, allowed a list with the layers",
        ),
        (
            "  pp: 2",
            "  pp: 2\n  stage_layers: [1, x]",
            "layout.stage_layers.1: wrong type (got 'x', allowed a whole number)",
        ),
        ("  pp: 2", "  pp: 2\n  stage_layers: {first: 1}", "layout.stage_layers.last: missing"),
        (
            "layout:\n",
            "network: {algoritms: {}}\nlayout:\n",
            "network.algoritms: unknown key (got 'algoritms', allowed algorithms",
        ),
        ("layout:\n", "extends: 3\nlayout:\n", "extends: wrong type (got 3, allowed the name of a scenario file)"),
        ("layout:\n", "measured: {step_time: 1 s}\nlayout:\n", "measured.source: missing"),
    ],
)
def test_a_mistake_says_where_it_stands_what_it_is_and_what_is_allowed(here, scenario_text, old, new, message):
    (here / "x.yaml").write_text(replaced(scenario_text, (old, new)))
    assert message in "\n".join(complaints("x.yaml"))


def test_a_file_of_several_scenarios_is_refused_with_the_command_for_it(here):
    (here / "v.yaml").write_text("extends: base.yaml\nvariants: {a: {seed: 1}}\n")
    (here / "s.yaml").write_text("extends: base.yaml\nsweep: {product: {seed: [1, 2]}}\n")
    assert complaints("v.yaml") == [
        "v.yaml:2:1: variants: several scenarios: compare them with `sim compare`, or name one with `--variant`"
    ]
    assert complaints("s.yaml") == [
        "s.yaml:2:1: sweep: several scenarios: play them with `sim sweep`, load them with load_points"
    ]


def test_checks_of_upper_layers_are_reported_at_their_place():
    def check(scenario):
        assert scenario.layout.dp == 2
        yield "layout.schedule", "no such schedule"

    assert complaints("base.yaml", checks=[check]) == ["base.yaml:25:3: layout.schedule: no such schedule"]


def test_checks_of_upper_layers_see_only_scenarios_that_hold_together():
    def check(_):
        raise AssertionError

    assert "layout.tp" in complaints("base.yaml", ["layout.tp=3"], checks=[check])[0]


def test_a_dump_loads_as_the_same_scenario(here):
    scenario = load("base.yaml", ["layout.zero=1"])
    document = dump(scenario)
    assert document["topology"]["fabric"] == "single_node"
    assert document["topology"]["nvlink"]["bytes_per_s"] == 450e9
    del document["variant"]
    (here / "again.json").write_text(json.dumps(document))
    assert dump(load("again.json")) == dump(scenario)


def test_a_dump_has_every_field():
    scenario = load("base.yaml")
    document = dump(scenario)
    for part in ("model", "gpu", "layout", "training", "network", "conditions"):
        assert set(document[part]) == set(type(getattr(scenario, part)).model_fields)
    assert set(document["topology"]) == {"fabric", *type(scenario.topology).model_fields}


def test_a_dump_does_not_depend_on_the_hash_seed():
    code = "import json; from sim.spec.load import dump, load; print(json.dumps(dump(load('base.yaml'))))"
    command = [sys.executable, "-c", code]
    outputs = {
        subprocess.run(command, env={"PYTHONHASHSEED": seed}, capture_output=True, check=True).stdout  # noqa: S603 - our own code
        for seed in ("1", "2")
    }
    assert len(outputs) == 1
