"""A small scenario, the command line in this process, and a Python of its own for what must be seen from outside."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from sim.cli import app

SMALL = """\
# A model on one node.
model: llama2-7b
gpu: h100-sxm
topology: single-node-h100
layout: {tp: 2, sequence_parallel: true, pp: 2, dp: 2, zero: 1, schedule: 1f1b}
training: {seq_len: 4096, global_batch: 8, micro_batch: 1, precision: bf16, recompute: full}
"""


def run_python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run this interpreter with `arguments`; `environment` is added to ours."""
    command = [sys.executable, *arguments]
    return subprocess.run(  # noqa: S603 - our own interpreter, with arguments that a test wrote
        command, capture_output=True, text=True, check=False, env=os.environ | environment
    )


@pytest.fixture
def python() -> Callable[..., subprocess.CompletedProcess[str]]:
    """`run_python` as a fixture."""
    return run_python


@pytest.fixture
def small_text() -> str:
    """A scenario that plays in milliseconds."""
    return SMALL


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    """Write a scenario file and return its path."""

    def to_file(text: str, name: str = "small.yaml") -> str:
        path = tmp_path / name
        path.write_text(text)
        return str(path)

    return to_file


@pytest.fixture
def small(write: Callable[..., str]) -> str:
    """Path of the small scenario."""
    return write(SMALL)


@pytest.fixture
def invoke() -> Callable[..., Result]:
    """Run a command in this process; anything but a SimError is raised. `code` is the exit code that it must have."""

    def command(*arguments: str, code: int = 0) -> Result:
        result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
        assert result.exit_code == code, result.stderr
        return result

    return command
