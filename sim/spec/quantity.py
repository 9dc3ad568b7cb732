"""Field types that read a human unit from a file and hold SI inside."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from sim import units


class Spec(BaseModel):
    """Something that a file describes: frozen, unknown keys refused, read by the file's key or the field's name.

    Strict: `yes` is no boolean, `true` no number and `'8'` no count.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, populate_by_name=True, protected_namespaces=(), allow_inf_nan=False
    )


def _reader(dimension: str) -> BeforeValidator:
    def read(value: Any) -> float:
        return units.parse(value, dimension)

    return BeforeValidator(read)


def _schema(dimension: str) -> WithJsonSchema:
    description = f"a value with its unit ({units.EXAMPLES[dimension]}); a bare number is in {dimension}"
    return WithJsonSchema({"type": ["string", "number"], "description": description})


def _above_zero() -> Any:
    return Field(gt=0, allow_inf_nan=False)


Bytes = Annotated[float, _reader("bytes"), _above_zero(), _schema("bytes")]
BytesPerSecond = Annotated[float, _reader("bytes/s"), _above_zero(), _schema("bytes/s")]
Seconds = Annotated[float, _reader("s"), Field(ge=0, allow_inf_nan=False), _schema("s")]
FlopPerSecond = Annotated[float, _reader("FLOP/s"), _above_zero(), _schema("FLOP/s")]
Watts = Annotated[float, _reader("W"), _above_zero(), _schema("W")]
Fraction = Annotated[float, Field(gt=0, le=1)]
Count = Annotated[int, Field(ge=1, strict=True)]
