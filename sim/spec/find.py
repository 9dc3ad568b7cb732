"""Where named files lie: scenarios, topologies, long runs, plans and the entries of the catalogue, by path or name."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Literal, get_args

import sim
from sim.errors import SimError

Kind = Literal[
    "scenarios",
    "topologies",
    "longruns",
    "plans",
    "models",
    "gpus",
    "stacks",
    "failures",
    "storage",
    "spikes",
    "prices",
    "power",
]

SUFFIXES = (".yaml", ".yml", ".json")
_SINGULAR = {
    "scenarios": "scenario",
    "topologies": "topology",
    "longruns": "long run",
    "plans": "plan",
    "models": "model",
    "gpus": "gpu",
    "stacks": "stack",
    "failures": "failures",
    "storage": "storage",
    "spikes": "spikes",
    "prices": "price",
    "power": "power",
}
_SHIPPED_BESIDE = {
    "scenarios": "scenarios",
    "topologies": "topologies",
    "longruns": "scenarios/longruns",
    "plans": "scenarios/plans",
}
"""Kinds whose files lie beside the package, and in the working folder; those of the others are its catalogue."""
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
    raise SimError(_refusal(kind, name, near or Path()))


def _refusal(kind: Kind, name: str, near: Path) -> str:
    """What the name may have been meant for: a known name, or a file that lies where the name points to."""
    what, path = _SINGULAR[kind], near / name
    if name and _is_folder(path):
        return f"a folder is no {what} (got {name!r}, allowed one of its files, or a name)"
    is_path = len(Path(name).parts) > 1
    known = names(kind)
    files = {str(file.relative_to(near) if near in file.parents else file): file for file in _files(path.parent)}
    with_suffix = [shown for shown, file in files.items() if file.stem == path.name]
    close = with_suffix[:1] or difflib.get_close_matches(str(Path(name)), [*([] if is_path else known), *files], n=1)
    hint = f", did you mean {close[0]!r}?" if close else ""
    allowed = f"a file, or a name that `sim list {kind}` shows" if is_path else ", ".join(known)
    return f"unknown {what}, no such file or name (got {name!r}, allowed {allowed}{hint})"


def names(kind: Kind) -> list[str]:
    """Names that `find` knows without a path, sorted."""
    return sorted({path.stem for folder in folders(kind) for path in _files(folder)})


def folders(kind: Kind) -> tuple[Path, ...]:
    """Folders in which names are looked up: the working folder's own (scenarios and the like), then what is shipped."""
    assert kind in get_args(Kind), kind
    if kind not in _SHIPPED_BESIDE:
        return (_PACKAGE / "catalog" / kind,)
    folder = Path(_SHIPPED_BESIDE[kind])
    in_wheel = _PACKAGE / "_shipped" / folder
    shipped = in_wheel if in_wheel.is_dir() else _PACKAGE.parent / folder
    return folder, shipped


def _files(folder: Path) -> list[Path]:
    """Files of a folder that may describe something, sorted; none of what is no folder, or cannot be read."""
    try:
        return sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES)
    except (OSError, ValueError):
        return []


def _is_folder(path: Path) -> bool:
    """False, too, for a name that no folder can have."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def _is_file(path: Path) -> bool:
    """False, too, for a name that no file can have."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False
