"""JSON Schema of a scenario file, for editors: completion, descriptions, and red lines under misspelt keys."""

from __future__ import annotations

from typing import Any

from sim.spec.gpu import Gpu
from sim.spec.layout import Layout
from sim.spec.model import Model
from sim.spec.quantity import Spec
from sim.spec.scenario import Setting
from sim.spec.stack import Stack
from sim.spec.sweep import Sweep
from sim.spec.topology import FABRICS
from sim.spec.training import Training

_NAME = {"type": "string"}


def schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of a scenario file.

    No key is required, as what one file leaves out may stand in the one that it extends; whether a scenario is complete
    is checked when it is loaded.
    """
    definitions: dict[str, Any] = {}
    parts = {
        "model": _part(
            _model(definitions), "name of the catalogue, or path of a model file or Hugging Face config.json"
        ),
        "gpu": _part([_overrides(Gpu, definitions)], "name of the catalogue, or path of a GPU file"),
        "topology": _part(_topologies(definitions), "name or path of a topology file"),
        "stack": _part([_overrides(Stack, definitions)], "name of the catalogue, or path of a stack file"),
        "layout": _partial(Layout, definitions),
        "training": _partial(Training, definitions),
    }
    setting = _partial(Setting, definitions)["properties"]
    del setting["variant"]
    scenario = {"type": "object", "properties": setting | parts, "additionalProperties": False}
    definitions["Variant"] = scenario
    structure = {
        "extends": {"type": "string", "description": "scenario file that this one is laid on"},
        "variants": {
            "type": "object",
            "description": "named overrides of this file, to be compared",
            "additionalProperties": {"$ref": "#/$defs/Variant"},
        },
        "sweep": _partial(Sweep, definitions),
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Scenario",
        **scenario,
        "properties": {**scenario["properties"], **structure},
        "$defs": dict(sorted(definitions.items())),
    }


def _part(mappings: list[dict[str, Any]], description: str) -> dict[str, Any]:
    return {"description": description, "anyOf": [_NAME, *mappings]}


def _partial(spec: type[Spec], definitions: dict[str, Any]) -> dict[str, Any]:
    """Schema of a class whose keys may stand in several files."""
    own = spec.model_json_schema(by_alias=True)
    for name, definition in own.pop("$defs", {}).items():
        definition.pop("required", None)
        definitions[name] = definition
    own.pop("required", None)
    return own


def _overrides(spec: type[Spec], definitions: dict[str, Any]) -> dict[str, Any]:
    """A part in full, or the keys that differ from the one that `use` names."""
    own = _partial(spec, definitions)
    own["properties"] = {"use": {"type": "string", "description": "the entry that the other keys override"}} | own[
        "properties"
    ]
    return own


def _model(definitions: dict[str, Any]) -> list[dict[str, Any]]:
    config = {
        "type": "object",
        "description": "a Hugging Face configuration",
        "properties": {"model_type": {"type": "string"}},
        "required": ["model_type"],
    }
    return [_overrides(Model, definitions), config]


def _topologies(definitions: dict[str, Any]) -> list[dict[str, Any]]:
    """One mapping for each family; without `fabric`, as in overrides, any of them fits."""
    mappings = []
    for family, spec in FABRICS.items():
        own = _overrides(spec, definitions)
        own["properties"] = {"fabric": {"const": family}} | own["properties"]
        mappings.append(own)
    return mappings
