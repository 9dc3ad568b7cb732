"""Results from files as points: what was set, and what came out. Any set of them can be drawn together."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from sim.errors import Problem, SimError
from sim.results.result import Result

Value: TypeAlias = str | float | int | bool

ANSWERS = (
    "step_time_s",
    "tokens_per_s",
    "tokens_per_s_per_gpu",
    "mfu",
    "bubble_fraction",
    "overlap_fraction",
    "peak_bytes",
    "gpu_w",
    "energy_j",
    "carbon_kg",
    "usd",
    "usd_per_token",
    "tokens_per_j",
)
"""Numbers of a point, in SI, as in a result and in the table of a sweep."""

NEEDED = ("step_time_s", "tokens_per_s", "tokens_per_s_per_gpu", "peak_bytes")
NAMED = ("model", "gpu", "topology", "stack")
DRAWN = ("layout", "training")
"""Parts of a scenario whose fields are settings of a point; of those in `NAMED` only the name is."""

OF_A_SWEEP = (*NAMED, *DRAWN, "network", "conditions", "cost", "seed", "measured")


@dataclass(frozen=True)
class Point:
    """One result. settings: by dotted path.  answers: `ANSWERS` that are known.  breakdown_s: empty where the file has
    none."""

    name: str
    settings: Mapping[str, Value]
    answers: Mapping[str, float]
    fits: bool
    breakdown_s: Mapping[str, float]


def point_of(result: Result) -> Point:
    """A result that was just played."""
    return _from_json(json.loads(json.dumps(result.to_dict())), "", None)


def read_points(path: Path) -> list[Point]:
    """Points of a file that `sim run`, `sim compare` (JSON) or `sim sweep` (CSV) wrote, or of all such in a folder.

    Points of a sweep that could not be played are left out. Raises SimError where a file is none of these.
    """
    if path.is_dir():
        files = sorted([*path.rglob("*.json"), *path.rglob("*.csv")])
        found = [point for file in files if _is_of_results(file) for point in read_points(file)]
        if not found:
            raise SimError(f"no results in the folder {path} (allowed result.json, sweep.csv, or files like these)")
        return found
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SimError(Problem(f"cannot be read ({error})", file=str(path))) from error
    return _of_csv(text, path) if path.suffix == ".csv" else _of_json(text, path)


def _is_of_results(file: Path) -> bool:
    """Whether a file of a folder is worth reading: the summary of a report repeats its result.json."""
    if file.suffix == ".csv":
        with file.open(encoding="utf-8", errors="replace") as lines:
            head = next(csv.reader(lines), [])
        return "error" in head and set(NEEDED) <= set(head)
    with file.open(encoding="utf-8", errors="replace") as lines:
        return '"breakdown_s"' in lines.read()


def _of_json(text: str, path: Path) -> list[Point]:
    try:
        content = json.loads(text)
    except ValueError as error:
        raise SimError(Problem(f"no JSON ({error})", file=str(path))) from error
    listed = content if isinstance(content, list) else [content]
    return [_from_json(item, f"[{number}]", path) for number, item in enumerate(listed)]


def _from_json(item: Any, place: str, path: Path | None) -> Point:
    try:
        scenario, name = item["scenario"], item["name"]
        fits, peak_bytes = item["memory"]["fits"], item["memory"]["peak_bytes"]
        breakdown_s = {str(cause): float(seconds) for cause, seconds in item["breakdown_s"].items()}
        values = {**item, **_spent(item), "peak_bytes": peak_bytes}
        answers = {key: float(values[key]) for key in ANSWERS if values.get(key) is not None}
        settings = {**_settings(scenario), "num_gpus": int(item["num_gpus"])}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise SimError(
            Problem(f"no result of sim ({type(error).__name__}: {error})", file=str(path), path=place)
        ) from error
    _refuse_missing(answers, place, path)
    return Point(str(name), settings, answers, bool(fits), breakdown_s)


def _spent(item: Mapping[str, Any]) -> dict[str, float | None]:
    """Answers of a result that its JSON has under `spending`."""
    spending = item.get("spending")
    if spending is None:
        return {}
    tokens = item["tokens_per_s"] * item["step_time_s"]
    usd = spending["usd"]
    plain = {key: spending[key] for key in ("gpu_w", "energy_j", "carbon_kg", "usd")}
    return plain | {
        "usd_per_token": None if usd is None else usd / tokens,
        "tokens_per_j": tokens / spending["energy_j"],
    }


def _settings(scenario: Mapping[str, Any]) -> dict[str, Value]:
    found: dict[str, Value] = {part: scenario[part]["name"] for part in NAMED}
    for part in DRAWN:
        found |= dict(_leaves(part, scenario[part]))
    return found


def _leaves(path: str, value: Any) -> Iterator[tuple[str, Value]]:
    """Single values by dotted path; a list is one value."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(f"{path}.{key}", inner)
    elif isinstance(value, (str, int, float)):
        yield path, value
    else:
        yield path, json.dumps(value)


def _of_csv(text: str, path: Path) -> list[Point]:
    reader = csv.DictReader(io.StringIO(text))
    head = reader.fieldnames or ()
    missing = [column for column in (*NEEDED, "fits", "error") if column not in head]
    if missing:
        message = f"no table of a sweep: column {missing[0]} is missing (allowed sweep.csv of `sim sweep`)"
        raise SimError(Problem(message, file=str(path), line=1))
    paths = [column for column in head if column.split(".")[0] in OF_A_SWEEP]
    points = []
    for row in reader:
        if row["error"]:
            continue
        try:
            answers = {key: float(row[key]) for key in ANSWERS if row.get(key)}
            settings = {key: _value(row[key]) for key in (*paths, "num_gpus") if row.get(key)}
        except (ValueError, TypeError) as error:
            raise SimError(Problem(f"wrong number ({error})", file=str(path), line=reader.line_num)) from error
        _refuse_missing(answers, "", path, reader.line_num)
        name = " ".join(f"{key.split('.')[-1]}={row[key]}" for key in paths) or path.stem
        points.append(Point(name, settings, answers, row["fits"] == "True", _breakdown(row)))
    return points


def _breakdown(row: Mapping[str, Any]) -> dict[str, float]:
    lead = "breakdown_s."
    return {key.removeprefix(lead): float(value) for key, value in row.items() if key.startswith(lead) and value}


def _refuse_missing(answers: Mapping[str, float], place: str, path: Path | None, line: int | None = None) -> None:
    wrong = [key for key in NEEDED if not answers.get(key, 0.0) > 0]
    if wrong:
        message = f"{wrong[0]} is missing (allowed a number above 0)"
        raise SimError(Problem(message, file=str(path), path=place, line=line))


def _value(text: str) -> Value:
    """A number where the text is one.

    >>> _value("8"), _value("0.5"), _value("1f1b")
    (8, 0.5, '1f1b')
    """
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def ranked(points: Iterable[Point]) -> list[Point]:
    """Most tokens a second and GPU first; what does not fit last."""
    return sorted(points, key=lambda point: (not point.fits, -point.answers["tokens_per_s_per_gpu"], point.name))


def varied(points: Sequence[Point]) -> dict[str, list[Value]]:
    """Settings that all points have and that differ, with their values in order: numbers by size, words by name.

    What only says again what another setting does, value for value, is left out.
    """
    found: dict[str, list[Value]] = {}
    seen: set[tuple[int, ...]] = set()
    for path in points[0].settings if points else ():
        if not all(path in point.settings for point in points):
            continue
        column = [point.settings[path] for point in points]
        values = sorted(set(column), key=lambda value: (isinstance(value, str), value))
        pattern = tuple(values.index(value) for value in column)
        if len(values) > 1 and pattern not in seen:
            seen.add(pattern)
            found[path] = values
    return found


def told_apart(points: Sequence[Point]) -> list[str]:
    """Names without what all of them share up to a slash."""
    names = [point.name for point in points]
    heads = {name.split("/")[0] for name in names}
    return [name.split("/", 1)[1] if "/" in name and len(heads) == 1 else name for name in names]
