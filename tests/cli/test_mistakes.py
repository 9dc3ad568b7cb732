"""The user's mistakes: lines on stderr that say where, exit code 2, never a traceback."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

SLOW_SWEEP = """\
sweep:
  product:
    training.global_batch: [{batches}]
"""


@pytest.mark.parametrize("command", ["run", "compare", "show"])
def test_mistakes_of_a_file_are_all_reported_with_their_place(
    command: str, invoke: Callable, write: Callable, small_text: str
):
    path = write(small_text.replace("tp: 2", "tpp: 2").replace("precision: bf16", "precision: bf17"))
    done = invoke(command, path, code=2)
    lines = done.stderr.splitlines()
    assert done.stdout == ""
    assert any(re.search(r"small\.yaml:5:10: layout\.tpp: .*did you mean 'tp'", line) for line in lines)
    assert any(re.search(r"small\.yaml:6:\d+: training\.precision: .*'bf17'.*bf16", line) for line in lines)


def test_a_mistake_of_the_schedule_has_its_place_in_the_file(invoke: Callable, write: Callable, small_text: str):
    path = write(small_text.replace("schedule: 1f1b", "schedule: 1f2b"))
    assert re.search(
        r"small\.yaml:5:\d+: layout\.schedule: .*'1f2b'.*did you mean '1f1b'", invoke("run", path, code=2).stderr
    )


def test_an_equation_is_printed_with_its_numbers(invoke: Callable, write: Callable, small_text: str):
    stderr = invoke("run", write(small_text.replace("dp: 2", "dp: 3")), code=2).stderr
    assert "tp * cp * dp * pp = 2 * 1 * 3 * 2 = 12, but the topology has 8 GPUs" in stderr


def test_an_override_that_is_wrong_is_named_as_it_was_given(invoke: Callable, small: str):
    assert "--set layout.tp" in invoke("run", small, "--set", "layout.tp=3", code=2).stderr


def test_an_unknown_scenario_names_those_that_exist(invoke: Callable):
    stderr = invoke("run", "llama2-70b_128xh100_layout", code=2).stderr
    assert "llama2-70b_128xh100_layouts" in stderr


def test_run_of_a_file_with_variants_says_which_command_plays_it(invoke: Callable, write: Callable, small_text: str):
    path = write(small_text + "variants: {a: {}, b: {layout: {zero: 0}}}\n")
    assert "compare" in invoke("run", path, code=2).stderr


@pytest.mark.parametrize("option", ["--json", "--report", "--trace"])
def test_what_cannot_be_written_is_a_mistake(option: str, invoke: Callable, small: str, tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    stderr = invoke("run", small, option, str(tmp_path / "file" / "below"), code=2).stderr
    assert "cannot write" in stderr


@pytest.mark.parametrize(
    ("command", "option", "target", "message"),
    [
        ("run", "--report", "file", "cannot write {0}/file: {0}/file is no folder (allowed a new folder, or one to "),
        ("run", "--report", "file/a/b", "cannot write {0}/file/a/b: {0}/file is no folder (allowed"),
        ("run", "--trace", "file", "cannot write {0}/file: {0}/file is no folder (allowed"),
        ("run", "--json", "", "cannot write '{0}/': no name of a file (allowed a file, or - for stdout)"),
        ("compare", "--report", "file", "cannot write {0}/file: {0}/file is no folder (allowed"),
        ("compare", "--json", "file/a", "cannot write {0}/file: {0}/file is no folder (allowed"),
        ("sweep", "--out", "file", "cannot write {0}/file: {0}/file is no folder (allowed"),
    ],
)
def test_what_cannot_be_written_is_said_before_anything_is_played(
    command: str, option: str, target: str, message: str, invoke: Callable, write: Callable, small_text: str, tmp_path
):
    (tmp_path / "file").write_text("in the way")
    path = write(small_text + ("sweep: {product: {seed: [1]}}\n" if command == "sweep" else ""))
    done = invoke(command, path, option, f"{tmp_path}/{target}", code=2)
    assert done.stderr.startswith(message.format(tmp_path))
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1


def test_a_folder_for_a_json_file_is_made(invoke: Callable, small: str, tmp_path: Path):
    invoke("run", small, "--json", str(tmp_path / "new" / "result.json"))
    assert (tmp_path / "new" / "result.json").is_file()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device that is always full")
@pytest.mark.parametrize("arguments", [["list", "models"], ["schema"]])
def test_a_full_disk_under_stdout_is_one_line(arguments: list[str]):
    command = [sys.executable, "-m", "sim", *arguments]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)  # noqa: S603 - as above
    assert (done.returncode, done.stderr) == (2, "cannot write the output: No space left on device\n")


def test_a_name_that_the_terminal_cannot_show_is_no_traceback(write: Callable, small_text: str, python: Callable):
    path = write(small_text + "name: gr\u00fcn\n")
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
    done = python("-m", "sim", "run", path, **ascii_only)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("gr\\xfcn\n")


def test_a_mistake_seen_from_outside_is_one_line_and_no_traceback(python: Callable, write: Callable, small_text: str):
    done = python("-m", "sim", "run", write(small_text.replace("tp: 2", "tp: two")))
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1


def test_a_reader_that_goes_away_ends_the_command_quietly():
    command = [sys.executable, "-m", "sim", "list", "models"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:  # noqa: S603 - as above
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
