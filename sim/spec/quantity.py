"""Field types that read a human unit from a file and hold SI inside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, WithJsonSchema, model_validator

from sim import units

UNITS_REQUIRED = "units_required"
"""Key of the validation context under which a number needs its unit, as in every file: in the value (`memory: 80 GiB`)
or in the key (`memory_bytes: 85899345920`, as dumps have it)."""


@dataclass(frozen=True)
class _Unitless:
    """A number that stands without its unit."""

    value: float


class Spec(BaseModel):
    """Something that a file describes: frozen, unknown keys refused, read by the file's key or the field's name.

    Strict: `yes` is no boolean, `true` no number and `'8'` no count. A quantity's field has its unit in its name and a
    file's key, its alias, without it.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, populate_by_name=True, protected_namespaces=(), allow_inf_nan=False
    )

    @model_validator(mode="before")
    @classmethod
    def _mark_numbers_without_unit(cls, fields: Any, info: ValidationInfo) -> Any:
        if not isinstance(fields, dict) or not (info.context and info.context.get(UNITS_REQUIRED)):
            return fields
        keys = {field.alias for field in cls.model_fields.values() if field.alias is not None}
        return {key: _marked(value) if key in keys else value for key, value in fields.items()}


def _marked(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _marked(inner) for key, inner in value.items()}
    return _Unitless(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value


def _reader(dimension: str) -> BeforeValidator:
    def read(value: Any) -> float:
        if isinstance(value, _Unitless):
            example = units.EXAMPLES[dimension]
            raise ValueError(f"got {value.value!r} without a unit, allowed a value such as {example!r}")  # noqa: TRY004
        return units.parse(value, dimension)

    return BeforeValidator(read)


def _schema(dimension: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "description": f"a value with its unit ({units.EXAMPLES[dimension]})"})


def _above_zero() -> Any:
    return Field(gt=0, allow_inf_nan=False)


Bytes = Annotated[float, _reader("bytes"), _above_zero(), _schema("bytes")]
BytesPerSecond = Annotated[float, _reader("bytes/s"), _above_zero(), _schema("bytes/s")]
Seconds = Annotated[float, _reader("s"), Field(ge=0, allow_inf_nan=False), _schema("s")]
FlopPerSecond = Annotated[float, _reader("FLOP/s"), _above_zero(), _schema("FLOP/s")]
Watts = Annotated[float, _reader("W"), _above_zero(), _schema("W")]
Fraction = Annotated[float, Field(gt=0, le=1)]
Count = Annotated[int, Field(ge=1, strict=True)]
