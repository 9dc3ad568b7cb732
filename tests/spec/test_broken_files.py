"""No scenario file, however broken, ends in a traceback."""

import contextlib
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sim.errors import SimError
from sim.spec.load import load, load_all, load_points
from sim.spec.scenario import Scenario

pytestmark = pytest.mark.usefixtures("here")

quietly = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

ODD_VALUES = ["[]", "{}", "null", "true", "-1", "0", "1e999", ".nan", "9" * 40, "100000000000", "x.y", "..", "/"]
ODD_VALUES += ["'", '"', "*x", "&x", "!!int 3", "a: b", "- x", "[[[[", "? ", "<<: 1", "%YAML 9.9"]
ODD_VALUES += ["\t", "\0", "\x7f", "\u2028", "\ufeff", "/dev/zero", "base.yaml"]
ODD_VALUES += ["{use: x}", "{use: {use: 1}}", "{model_type: llama}", "{model_type: [1]}", "{fabric: nvl72}"]
ODD = st.sampled_from(ODD_VALUES)


def loads_or_complains(path):
    """Every way to load the file gives scenarios or a SimError with a message on one line for each mistake."""
    for function in (load, load_all, load_points):
        try:
            loaded = function(path)
        except SimError as error:
            assert all(str(problem) for problem in error.problems)  # noqa: PT017 - either outcome is right
            assert len(str(error).splitlines()) == len(error.problems)  # noqa: PT017 - the same
        else:
            assert isinstance(loaded, Scenario | list)


@quietly
@given(content=st.binary(max_size=200))
def test_random_bytes_load_or_complain(here, content):
    (here / "x.yaml").write_bytes(content)
    loads_or_complains("x.yaml")


@quietly
@given(data=st.data())
def test_a_scenario_with_an_odd_value_loads_or_complains(here, scenario_text, data):
    text = scenario_text + "network: {algorithms: {all_reduce: auto}}\nseed: 1\n"
    text += data.draw(st.sampled_from(["", "variants: {a: {seed: 2}}\n", "sweep: {product: {seed: [1, 2]}}\n"]))
    for _ in range(data.draw(st.integers(1, 3))):
        value = data.draw(st.sampled_from(list(re.finditer(r"(?<=: )[^\n{}\[\],]+", text))))
        text = text[: value.start()] + data.draw(ODD) + text[value.end() :]
    (here / "x.yaml").write_text(text, encoding="utf-8")
    loads_or_complains("x.yaml")


@quietly
@given(data=st.data())
def test_a_scenario_with_a_part_cut_out_or_doubled_loads_or_complains(here, scenario_text, data):
    content = (scenario_text + "variants: {a: {seed: 2}}\n").encode()
    start, end = sorted(data.draw(st.tuples(*[st.integers(0, len(content))] * 2)))
    content = content[:start] + data.draw(st.binary(max_size=5)) + content[end if data.draw(st.booleans()) else start :]
    (here / "x.yaml").write_bytes(content)
    loads_or_complains("x.yaml")


@quietly
@given(key=st.text(max_size=30), value=st.one_of(st.text(max_size=30), ODD))
def test_any_setting_is_taken_or_complained_about(key, value):
    with contextlib.suppress(SimError):
        load("base.yaml", [f"{key}={value}"])
    with contextlib.suppress(SimError):
        load("base.yaml", {f"layout.{key}": value})


LEAVES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=10))
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
)
PATHS = ["model", "gpu", "topology", "layout", "training", "network", "seed", "measured", "name", "layout.stage_layers"]
PATHS += [
    "model.experts",
    "topology.nvlink",
    "topology.fabric",
    "topology.sources",
    "gpu.peak",
    "gpu.gemm",
    "layout.tp",
]


@quietly
@given(path=st.sampled_from(PATHS), value=VALUES)
def test_any_value_from_python_is_taken_or_complained_about(path, value):
    with contextlib.suppress(SimError):
        load("base.yaml", {path: value})


@pytest.mark.parametrize(
    "name", ["", ".", "/", "base", "nul\0", "x" * 10_000, "/dev/zero", "\udcff.yaml", "base.yaml/x.yaml"]
)
def test_any_name_of_a_file_is_complained_about(name):
    with pytest.raises(SimError):
        load(name)


@pytest.mark.parametrize(
    "content", [b"layout: " * 2000, b"[" * 200_000, b"{a: " * 200_000, b"- " * 5000, b"\n" * 100_000, b"? " * 3000]
)
def test_deep_nonsense_is_complained_about(here, content):
    (here / "x.yaml").write_bytes(content)
    loads_or_complains("x.yaml")


def test_a_file_without_end_is_not_read(here):
    (here / "x.yaml").write_bytes(b"#" * (2**24 + 1))
    with pytest.raises(SimError, match="too large"):
        load("x.yaml")
