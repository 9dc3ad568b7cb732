"""Where named files lie: scenarios, topologies, models and GPUs by path or by name."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

import sim
from sim.errors import SimError
from sim.registry import unknown

Kind = Literal["scenarios", "topologies", "models", "gpus"]

SUFFIXES = (".yaml", ".yml", ".json")
_SINGULAR = {"scenarios": "scenario", "topologies": "topology", "models": "model", "gpus": "gpu"}
_PACKAGE = Path(sim.__file__).resolve().parent


def find(kind: Kind, name: str, near: Path | None = None) -> Path:
    """The file that `name` means, the first of these that exists.

    A path (it has a folder or a suffix) counts from `near`, the folder of the file that refers to it, so that a file
    means the same from everywhere, then from the working folder. A name, with or without its suffix, is looked up in
    the folders of `folders(kind)`.

    Raises SimError, listing the names that exist, where there is none.
    """
    path = Path(name)
    if path.suffix in SUFFIXES or len(path.parts) > 1:
        for candidate in (*([near / path] if near is not None else []), path):
            if _is_file(candidate):
                return candidate
    if name and len(path.parts) == 1:
        for folder in folders(kind):
            for candidate in (folder / name, *(folder / f"{name}{suffix}" for suffix in SUFFIXES)):
                if candidate.suffix in SUFFIXES and _is_file(candidate):
                    return candidate
    raise SimError(unknown(f"{_SINGULAR[kind]}, no such file or name", name, names(kind)))


def names(kind: Kind) -> list[str]:
    """Names that `find` knows without a path, sorted."""
    found = {
        path.stem for folder in folders(kind) if folder.is_dir() for path in folder.iterdir() if path.suffix in SUFFIXES
    }
    return sorted(found)


def folders(kind: Kind) -> tuple[Path, ...]:
    """Folders in which names are looked up: the working folder's own (scenarios, topologies), then what is shipped."""
    assert kind in get_args(Kind), kind
    if kind in ("models", "gpus"):
        return (_PACKAGE / "catalog" / kind,)
    in_wheel = _PACKAGE / "_shipped" / kind
    shipped = in_wheel if in_wheel.is_dir() else _PACKAGE.parent / kind
    return Path(kind), shipped


def _is_file(path: Path) -> bool:
    """False, too, for a name that no file can have."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False
