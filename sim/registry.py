"""Named implementations, one file each: a schedule, a fabric family, a collective algorithm, a figure."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from typing import Generic, TypeVar

from sim.errors import SimError

T = TypeVar("T")


class Registry(Mapping[str, T], Generic[T]):
    """Name -> implementation. The modules of `package` are imported at the first look-up, in sorted order.

    Raises SimError, naming what exists, on an unknown name.
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self._package = package
        self._entries: dict[str, T] = {}
        self._is_loaded = False

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that files an implementation under `name`."""

        def add(entry: T) -> T:
            assert name not in self._entries, f"{self.kind} {name!r} is registered twice"
            self._entries[name] = entry
            return entry

        return add

    def _load(self) -> dict[str, T]:
        if not self._is_loaded:
            package = importlib.import_module(self._package)
            for module in sorted(info.name for info in pkgutil.iter_modules(package.__path__)):
                importlib.import_module(f"{self._package}.{module}")
            self._is_loaded = True
            self._entries = dict(sorted(self._entries.items()))
        return self._entries

    def __getitem__(self, name: str) -> T:
        entries = self._load()
        if name not in entries:
            raise SimError(unknown(self.kind, name, list(entries)))
        return entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._load())

    def __len__(self) -> int:
        return len(self._load())


def unknown(kind: str, name: str, allowed: list[str]) -> str:
    """The message for a name that does not exist: what is allowed and what was probably meant."""
    close = difflib.get_close_matches(name, allowed, n=1)
    hint = f", did you mean {close[0]!r}?" if close else ""
    return f"unknown {kind} (got {name!r}, allowed {', '.join(allowed)}{hint})"
