import json
import re
from pathlib import Path

import pytest

import sim
from sim.spec import find
from sim.spec.load import schema
from sim.spec.source import plain, read
from sim.spec.topology import FABRICS

TYPES = {
    "object": dict,
    "array": tuple,
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "null": type(None),
}
CHECKED = {"$ref", "anyOf", "oneOf", "type", "const", "enum", "properties", "additionalProperties", "items", "required"}
CHECKED |= {
    "minimum",
    "exclusiveMinimum",
    "maximum",
    "minItems",
    "maxItems",
    "prefixItems",
    "minProperties",
    "propertyNames",
    "pattern",
}
SAID = {"$schema", "$defs", "title", "description", "default"}


def fits(value, rules, root):
    """Whether a JSON Schema validator would accept the value; the subset of the standard that our schema uses."""
    if rules is True:
        return True
    assert set(rules) <= CHECKED | SAID, sorted(set(rules) - CHECKED - SAID)
    if "$ref" in rules:
        return fits(value, root["$defs"][rules["$ref"].removeprefix("#/$defs/")], root)
    return all((_fits_alternatives(value, rules, root), _fits_value(value, rules), _fits_inside(value, rules, root)))


def _fits_alternatives(value, rules, root):
    any_of, one_of = rules.get("anyOf", [True]), rules.get("oneOf", [True])
    return any(fits(value, each, root) for each in any_of) and sum(fits(value, each, root) for each in one_of) == 1


def _fits_value(value, rules):
    types = rules.get("type", list(TYPES))
    types = [types] if isinstance(types, str) else types
    is_type = any(
        isinstance(value, TYPES[each]) and (each == "boolean" or not isinstance(value, bool)) for each in types
    )
    number = value if isinstance(value, (int, float)) else None
    return (
        is_type
        and rules.get("const", value) == value
        and value in rules.get("enum", [value])
        and (not isinstance(value, str) or re.search(rules.get("pattern", ""), value) is not None)
        and (number is None or rules.get("minimum", number) <= number <= rules.get("maximum", number))
        and (number is None or "exclusiveMinimum" not in rules or number > rules["exclusiveMinimum"])
        and (not isinstance(value, (tuple, dict)) or len(value) >= rules.get("minItems", rules.get("minProperties", 0)))
    )


def _fits_inside(value, rules, root):
    if isinstance(value, tuple):
        first = rules.get("prefixItems", [])
        each = [*first, *[rules.get("items", True)] * (len(value) - len(first))]
        is_short = len(value) <= rules.get("maxItems", len(value))
        return is_short and all(fits(item, rule, root) for item, rule in zip(value, each, strict=False))
    if not isinstance(value, dict):
        return True
    known, rest = rules.get("properties", {}), rules.get("additionalProperties", True)
    return (
        set(rules.get("required", [])) <= set(value)
        and all(fits(key, rules.get("propertyNames", True), root) for key in value)
        and all(rest is not False or key in known for key in value)
        and all(fits(item, known.get(key, rest), root) for key, item in value.items())
    )


def is_valid(node):
    rules = schema()
    return fits(plain(node), rules, rules)


def test_the_small_scenario_fits(here):
    assert is_valid(read(here / "base.yaml"))


@pytest.mark.parametrize("name", find.names("scenarios"))
def test_a_shipped_scenario_fits(name):
    path = Path(sim.__file__).parents[1] / "scenarios" / f"{name}.yaml"
    assert is_valid(read(path))


@pytest.mark.parametrize("name", find.names("topologies"))
def test_a_shipped_topology_fits_inline(name, here):
    (here / "x.yaml").write_text(json.dumps({"topology": plain(read(find.find("topologies", name)))}))
    assert is_valid(read(here / "x.yaml"))


@pytest.mark.parametrize(("kind", "part"), [("models", "model"), ("gpus", "gpu")])
def test_the_catalogue_fits_inline(kind, part, here):
    for name in find.names(kind):
        (here / "x.yaml").write_text(json.dumps({part: plain(read(find.find(kind, name)))}))
        assert is_valid(read(here / "x.yaml")), name


@pytest.mark.parametrize(
    "text",
    [
        "gpu: {use: h100-sxm, memory: 40 GiB}",
        "topology: {use: dgx-h100, nodes: 4}",
        "model: {model_type: llama, hidden_size: 64}",
        "layout: {stage_layers: [1, 2]}",
        "layout: {stage_layers: {first: 1, last: 2}}",
        "layout: {dp: null}",
        "variants: {a: {layout: {tp: 2}, gpu: h100-sxm}}",
        "sweep: {product: {layout.tp: [1, 2]}, points: [{seed: 1}]}",
        "measured: {step_time: 3 s, source: a paper}",
        "conditions: {gpus: {3: 0.8}, links: {nic0-leaf0: 0}, jitter: {per_rank: 0.1}}",
        "conditions: {gpus: {'12': 2}}",
    ],
)
def test_what_loads_fits(text, here):
    (here / "x.yaml").write_text(text)
    assert is_valid(read(here / "x.yaml"))


@pytest.mark.parametrize(
    "text",
    [
        "modle: x",
        "layout: {tpp: 2}",
        "layout: {tp: 0}",
        "layout: {tp: '2'}",
        "layout: {zero: 4}",
        "layout: {stage_layers: 3}",
        "training: {precision: bf61}",
        "gpu: {memroy: 40 GiB}",
        "topology: {fabric: star}",
        "variants: {a: {layuot: {}}}",
        "sweep: {prodct: {}}",
        "sweep: {product: {seed: 1}}",
        "variant: a",
        "conditions: {gpus: {3: 0}}",
        "conditions: {gpus: {first: 1}}",
        "conditions: {gpus: {'03': 1}}",
        "conditions: {links: {nic0-leaf0: 1.5}}",
        "conditions: {jitter: 0.1}",
    ],
)
def test_what_is_refused_does_not_fit(text, here):
    (here / "x.yaml").write_text(text)
    assert not is_valid(read(here / "x.yaml"))


def test_every_fabric_family_is_offered():
    offered = [each["properties"]["fabric"]["const"] for each in schema()["properties"]["topology"]["anyOf"][1:]]
    assert offered == list(FABRICS)


def test_the_schema_is_json_and_always_the_same():
    assert json.dumps(schema()) == json.dumps(schema())
