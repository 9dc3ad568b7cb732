"""Long-run files and the catalogue: what ships loads, mistakes are told at their places, documents are complete."""

import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sim.errors import SimError
from sim.longrun.hazards import rate_per_s
from sim.longrun.load import NAMED, load
from sim.longrun.plan import checkpoint_bytes, plan
from sim.longrun.summary import expected_restart_s, habits
from sim.simulation import load as load_scenario
from sim.spec.find import find, names
from sim.spec.longrun import LongRunFile
from sim.spec.quantity import Spec

DOCUMENT = Path(__file__).parents[2] / "docs" / "longrun.md"
GIVEN = "opt-175b_992xa100"
SCENARIO = "llama3.1-405b_16384xh100_54-days"
ENTRIES = [(".".join(path), name) for path, kind in NAMED.items() for name in names(kind)]


@pytest.mark.parametrize("name", names("longruns"))
def test_a_shipped_long_run_loads_and_asks_a_question(name) -> None:
    first = find("longruns", name).read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith("# ")
    assert first.endswith("?")
    assert load(name).name == name


@pytest.mark.parametrize(("path", "name"), ENTRIES)
def test_an_entry_of_the_catalogue_loads_by_name(path, name) -> None:
    base = SCENARIO if path == "checkpoint.storage" else GIVEN
    entry = load(base, [f"{path}={name}"])
    for part in path.split("."):
        entry = getattr(entry, part)
    assert entry.name == name


def test_llama_3_counts_419_interruptions_in_54_days() -> None:
    entry = load(SCENARIO).failures
    assert sum(component.count for component in entry.components.values()) == 419
    assert rate_per_s(entry, 2048) * 54 * 86400 == pytest.approx(419)


def test_jobs_of_1024_gpus_on_rsc_1_run_8_hours_between_failures() -> None:
    entry = load(GIVEN, ["failures=rsc-1-jobs"]).failures
    assert 1 / rate_per_s(entry, 128) / 3600 == pytest.approx(7.9, abs=0.05)
    node_only = load(GIVEN, ["failures=rsc-1"]).failures
    assert 1 / rate_per_s(node_only, 2048) / 3600 == pytest.approx(1.8, abs=0.01)


def test_the_size_of_a_checkpoint_follows_from_the_model() -> None:
    scenario = load_scenario("llama2-7b_8xa100_zero3")
    assert checkpoint_bytes(scenario) == pytest.approx(14 * 6.738e9, rel=1e-3)


def test_phases_take_their_steps_from_scenarios(tmp_path) -> None:
    text = find("longruns", GIVEN).read_text(encoding="utf-8")
    phase = "{name: main, scenario: llama2-7b_8xa100_zero3, set: {training.seq_len: 2048}, steps: 10}"
    text = re.sub(r"  - \{name: main.*\}", f"  - {phase}", text).replace("gpus: 992\n", "")
    (tmp_path / "x.yaml").write_text(text)
    found = plan(load(tmp_path / "x.yaml"), tmp_path / "x.yaml")
    assert found.num_gpus == 8
    assert found.phases[0].mfu is not None
    scenario = load_scenario("llama2-7b_8xa100_zero3", {"training.seq_len": 2048})
    assert found.phases[0].tokens_per_step == 2048 * scenario.training.global_batch


def test_sizes_that_differ_are_refused() -> None:
    with pytest.raises(SimError, match="got 1024, 16384 GPUs"):
        plan(load(SCENARIO, ["gpus=1024"]), SCENARIO)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("failures=llama", "unknown failures.*did you mean 'llama3'"),
        ("recovery.detect=3", "without a unit"),
        ("recovery.detects=3 s", "unknown key.*did you mean 'detect'"),
        ("checkpoint.rule=exact", r"an interval is one of rule, every and every_steps \(got 2"),
        ("checkpoint.memory_copies=2", "memory_ fields with mode = async"),
        ("checkpoint.storage=tectonic", "storage has no effect"),
        ("checkpoint.size=3 TB", "size has no effect"),
        ("failures.components.restart.hang_frac=2", "out of range"),
        ("failures.components.restart.scope=group", "nodes = 1 with scope = group"),
        ("spares={swap: 3 s}", "swap needs spare nodes"),
        ("gpus_per_node=7", "992 GPUs are no whole number of nodes"),
        ("elastic={replica_nodes: 7, reconfigure: 1 s, rejoin: 1 s}", "124 nodes are no 1 or more replicas of 7"),
    ],
)
def test_a_mistake_is_told(setting, message) -> None:
    settings = [setting] if "storage" not in setting else ["spares.nodes=1", setting]
    if setting.startswith("spares="):
        settings = ["spares.nodes=0", "spares.swap=3 s"]
    with pytest.raises(SimError, match=message):
        plan(load(GIVEN, settings), GIVEN)


def test_a_mistake_in_a_file_has_its_line(tmp_path) -> None:
    text = find("longruns", GIVEN).read_text(encoding="utf-8")
    (tmp_path / "x.yaml").write_text(text.replace("  detect: 30 min\n", "  detect: soon\n"))
    with pytest.raises(SimError, match=r"x\.yaml:14:3: recovery\.detect: wrong value \(got 'soon'"):
        load(tmp_path / "x.yaml")


ODD = ["[]", "{}", "null", "true", "-1", "0", "1e999", ".nan", "9" * 40, "1e-300 s", "1e300 s", "x.y", "..", "/", "'"]
ODD += ["*x", "&x", "a: b", "- x", "[[[[", "{use: x}", "{use: {use: 1}}", "[{}]", "1 s", "7", "0.5"]


@settings(
    max_examples=200, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_a_file_with_odd_values_loads_or_complains(tmp_path, data) -> None:
    text = find("longruns", data.draw(st.sampled_from([GIVEN, "gpt-1t_131072xh100_90-days"]))).read_text("utf-8")
    for _ in range(data.draw(st.integers(1, 3))):
        value = data.draw(st.sampled_from(list(re.finditer(r"(?<=: )[^\n{}\[\],]+", text))))
        text = text[: value.start()] + data.draw(st.sampled_from(ODD)) + text[value.end() :]
    (tmp_path / "odd.yaml").write_text(text, encoding="utf-8")
    try:
        found = plan(load(tmp_path / "odd.yaml"), tmp_path / "odd.yaml")
    except SimError as error:
        assert all(str(problem) for problem in error.problems)  # noqa: PT017 - either outcome is right
    else:
        assert len(habits(found, expected_restart_s(found))) == 7


def keys(spec: type[Spec], prefix: str = "") -> set[str]:
    """Dotted keys of a file, those of the catalogue's entries too."""
    found = set()
    for name, field in spec.model_fields.items():
        path = f"{prefix}{field.alias or name}"
        found.add(path)
        for inner in _specs(field.annotation):
            found |= keys(inner, f"{path}.")
    return found


def _specs(annotation):
    if isinstance(annotation, type) and issubclass(annotation, Spec):
        yield annotation
    for inner in getattr(annotation, "__args__", ()):
        yield from _specs(inner)


def test_every_key_of_a_long_run_is_documented_and_no_other() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    documented = {name for row in rows for name in re.findall(r"`([^`]+)`", row)}
    of_entries = (".sources", ".estimated", ".name", ".title")
    wanted = {key for key in keys(LongRunFile) if key == "phases.name" or not key.endswith(of_entries)}
    holders = {key for key in wanted if any(other.startswith(f"{key}.") for other in wanted)}
    assert wanted - holders - documented == set()
    assert {name for name in documented if "." in name} - wanted == set()
