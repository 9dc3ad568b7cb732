"""What ships is what the constants were fitted to: errors are those that the files state, and fits give the same."""

from __future__ import annotations

import gzip
import runpy
from functools import cache
from pathlib import Path

import pandas as pd
import pytest
import yaml

from sim.calibrate.calibration import about
from sim.calibrate.entry import gpu_of
from sim.calibrate.errors import errors_in
from sim.calibrate.kind import KINDS
from sim.calibrate.measured import kind_of, measured
from sim.calibrate.shipped import FOLDER, differences, entries, fitted_again, shipped
from sim.calibrate.validation import validate

FILES = shipped()
TABLE = runpy.run_path(str(Path(__file__).parent / "error_table.py"))
KIND_OF_KEY = {"gemm": "gemm", "attention": "attention", "grouped_gemm": "moe", "memory_bound": "memory_bound"}
ROUNDED = 0.3
"""Percentage points: constants have three digits in a file."""
STATED = list(TABLE["stated"]())


@cache
def predicted(gpu: str, kind: str) -> pd.DataFrame:
    found = gpu_of(entries()[gpu])
    files = [each for each in FILES if (each.gpu, each.kind) == (gpu, kind)]
    tables = [validate(KINDS[kind], rows, found).table for each in files for rows in measured(each.path, KINDS[kind])]
    return pd.concat(tables, ignore_index=True)


def test_every_file_is_cited_with_its_licence_and_no_other() -> None:
    cited = yaml.safe_load((FOLDER / "sources.yaml").read_text(encoding="utf-8"))
    assert set(cited) == {each.path.name.removesuffix(".csv.gz") for each in FILES}
    assert all(set(each) == {"source", "licence"} for each in cited.values())


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.path.name)
def test_a_file_is_of_the_kind_and_the_gpu_that_its_name_says(file) -> None:
    assert kind_of(file.path).name == file.kind
    assert {rows.gpu for rows in measured(file.path, KINDS[file.kind])} == {file.gpu}


def test_the_files_are_small_and_carry_no_date() -> None:
    assert sum(each.path.stat().st_size for each in FILES) < 1_500_000
    for each in FILES:
        content = each.path.read_bytes()
        assert content[4:8] == bytes(4)
        assert gzip.decompress(content)


def test_errors_are_stated_for_every_kind_of_every_gpu_that_was_measured() -> None:
    found = {(name, KIND_OF_KEY[key.split(".")[0]]) for name, key, _ in STATED}
    assert found == {(each.gpu, each.kind) for each in FILES}


@pytest.mark.parametrize(("name", "key", "figures"), STATED, ids=[f"{name}-{key}" for name, key, _ in STATED])
def test_the_constants_reproduce_the_error_that_their_file_states(name, key, figures) -> None:
    rows = predicted(name, KIND_OF_KEY[key.split(".")[0]])
    rows = about(key, rows[rows["is_training"].astype(bool)])
    errors = errors_in(rows)
    assert errors is not None
    assert errors.n == int(figures["n"].replace(",", ""))
    assert errors.mape == pytest.approx(float(figures["mape"]), abs=ROUNDED)
    assert errors.bias == pytest.approx(float(figures["bias"]), abs=ROUNDED)


@pytest.mark.parametrize("name", ["a100-80gb-pcie", "v100-sxm2"])
def test_fitting_again_gives_the_file(name: str) -> None:
    before = entries()
    after = fitted_again(before, {name}, rounds=1).entries
    assert differences(before[name], after[name]) == []
    assert after[name].sources == before[name].sources


@pytest.mark.slow
def test_fitting_everything_again_gives_the_catalogue() -> None:
    before = entries()
    after = fitted_again(before, {each.gpu for each in FILES}, rounds=1).entries
    assert [line for name in before for line in differences(before[name], after[name])] == []


def test_the_document_has_the_errors_that_the_files_state() -> None:
    """Where this fails for a good reason, `python tests/calibrate/error_table.py` writes the new table."""
    text = TABLE["DOCUMENT"].read_text(encoding="utf-8")
    assert text.split(TABLE["BEGIN"])[1].split(TABLE["END"])[0] == TABLE["table"]()
