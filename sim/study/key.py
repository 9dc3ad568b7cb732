"""What a stored result is found by: the scenario as it was resolved, and the code and constants that played it."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any, final

import sim
from sim.errors import SimError
from sim.program.schedule_file import SUFFIX
from sim.simulation import own_version
from sim.spec.scenario import Scenario

PLAYED_BY = ("catalog", "cost", "engine", "program", "results", "spec")
"""Packages whose code and constants a result depends on; how it is asked for or shown changes nothing."""
NAMES = frozenset({"name", "variant", "measured"})
"""What a scenario is called, and what somebody measured: no part of what is played."""

_PARTS = ("model", "gpu", "topology", "stack")


@lru_cache(maxsize=1)
def constants() -> str:
    """SHA-256 of the version and of every file that a result depends on: code, and the catalogue's constants."""
    root = Path(sim.__file__).parent
    files = [root / "simulation.py", root / "registry.py", root / "units.py"]
    for package in PLAYED_BY:
        files += [path for path in sorted((root / package).rglob("*")) if path.suffix in (".py", ".yaml", ".json")]
    digest = hashlib.sha256(own_version().encode())
    for path in files:
        content = path.read_bytes()
        digest.update(f"\0{path.relative_to(root).as_posix()}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


@final
class Canon:
    """The canonical text of scenarios that share their parts: each part is put into words once."""

    def __init__(self) -> None:
        self._texts: dict[int, tuple[object, str]] = {}

    def text(self, scenario: Scenario) -> str:
        """JSON of the resolved scenario in SI, keys sorted, without what it is called."""
        rest = scenario.model_dump(mode="json", exclude={*NAMES, *_PARTS})
        parts = [f"{json.dumps(key)}: {_json(value)}" for key, value in sorted(rest.items())]
        parts += [f"{json.dumps(part)}: {self._part(scenario, part)}" for part in _PARTS]
        return f"{{{', '.join(sorted(parts))}}}"

    def key(self, scenario: Scenario) -> str:
        """SHA-256 of the text, of a schedule's file, which the scenario only names, and of what plays it.

        Raises SimError where that file cannot be read.
        """
        digest = hashlib.sha256(self.text(scenario).encode())
        digest.update(constants().encode())
        if scenario.layout.schedule.endswith(SUFFIX):
            digest.update(_content(scenario.layout.schedule))
        return digest.hexdigest()

    def _part(self, scenario: Scenario, part: str) -> str:
        value = getattr(scenario, part)
        if id(value) not in self._texts:
            # The part is kept, as another one could get its id.
            self._texts[id(value)] = (value, _json(scenario.model_dump(mode="json", include={part})[part]))
        return self._texts[id(value)][1]


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, allow_nan=False)


def _content(name: str) -> bytes:
    try:
        return hashlib.sha256(Path(name).read_bytes()).digest()
    except OSError as error:
        raise SimError(f"{name}: cannot be read ({error.strerror or error})") from error
