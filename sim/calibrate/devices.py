"""Which GPU of the catalogue a name in a measured file means."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from sim.spec.find import names

_FORMS = ("sxm", "pcie", "nvl")
_WORD = re.compile(r"[a-z0-9]+")
_FORM = re.compile(rf"({'|'.join(_FORMS)})\d*")
_MEMORY = re.compile(r"(\d+)gi?b")


@dataclass(frozen=True)
class Device:
    """A GPU of the catalogue, and in what the named one differs from it (empty where it does not)."""

    gpu: str
    note: str = ""


@dataclass(frozen=True)
class _Words:
    """What a name says: the words of the chip, its form factor and its memory in GB, None where it does not say."""

    chip: tuple[str, ...]
    form: str | None
    memory: str | None


def device(text: str) -> Device | None:
    """The GPU that `text` names, the nearest one of that chip where none is the very one; None for no known chip.

    A name of the catalogue is itself. Of one chip, the same memory goes before the same form factor (the memory's rate
    is what kernels bound by it see), SXM before others, and the larger memory before the smaller.

    >>> device("NVIDIA H100 80GB HBM3")
    Device(gpu='h100-sxm', note='')
    >>> device("a100_sxm").gpu, device("NVIDIA A100-PCIE-40GB").gpu, device("NVIDIA RTX 4090")
    ('a100-80gb-sxm', 'a100-40gb-sxm', None)
    """
    known = names("gpus")
    if text in known:
        return Device(text)
    words = _words(text)
    found = [name for name in known if _has(words.chip, _words(name).chip)]
    chips = {_words(name).chip for name in found}
    if len(chips) != 1:
        return None
    nearest = min(found, key=lambda name: _distance(words, _words(name)))
    return Device(nearest, _difference(text, words, nearest))


def _words(text: str) -> _Words:
    words: list[str] = _WORD.findall(text.lower())
    forms = [match[1] for word in words if (match := _FORM.fullmatch(word))]
    memories = [match[1] for word in words if (match := _MEMORY.fullmatch(word))]
    chip = [word for word in words if not _FORM.fullmatch(word) and not _MEMORY.fullmatch(word)]
    return _Words(tuple(chip), forms[0] if forms else None, memories[0] if memories else None)


def _has(words: Sequence[str], chip: Sequence[str]) -> bool:
    """Whether the words of a chip stand in `words` one after the other, or written as one."""
    size = len(chip)
    runs = [tuple(words[start : start + size]) for start in range(len(words) - size + 1)]
    return tuple(chip) in runs or "".join(chip) in words


def _distance(wanted: _Words, entry: _Words) -> tuple[bool, bool, int, int]:
    return (
        _differs(wanted.memory, entry.memory),
        _differs(wanted.form, entry.form),
        _FORMS.index(entry.form) if entry.form else 0,
        -int(entry.memory or 0),
    )


def _differs(wanted: str | None, entry: str | None) -> bool:
    """Whether both say it, and not the same."""
    return wanted is not None and entry is not None and wanted != entry


def _difference(text: str, wanted: _Words, nearest: str) -> str:
    entry = _words(nearest)
    if not _differs(wanted.memory, entry.memory) and not _differs(wanted.form, entry.form):
        return ""
    return f"{text!r} is read as {nearest}, the nearest of the catalogue"
