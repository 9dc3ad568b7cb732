from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from sim.calibrate.kind import Kind
from sim.calibrate.measured import measured, read
from sim.errors import SimError

HEAD = "who,mib,time_us,device\n"


@pytest.fixture
def write(tmp_path: Path):
    def to_file(content: str | bytes, name: str = "moves__h100_sxm__torch-2.csv") -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return to_file


def refused(path: Path, kind: Kind) -> list[str]:
    with pytest.raises(SimError) as caught:
        measured(path, kind)
    return [str(problem).replace(str(path), "FILE") for problem in caught.value.problems]


def test_numbers_are_numbers_and_the_index_is_the_line(write, moves: Kind) -> None:
    (found,) = measured(write("who,mib,time_us,note\na,4,2.5,\n\nb,8,5,7\n"), moves)
    assert found.gpu == "h100-sxm"
    assert list(found.rows.index) == [2, 4]
    assert found.rows["mib"].tolist() == [4, 8]
    assert found.rows["time_us"].tolist() == [2.5, 5.0]
    assert found.rows["note"].isna().tolist() == [True, False]


def test_gzip_is_known_by_its_bytes(write, moves: Kind) -> None:
    text = "who,mib,time_us\na,4,2.5\n"
    (plain,) = measured(write(text), moves)
    (packed,) = measured(write(gzip.compress(text.encode()), "moves__h100_sxm__x.csv"), moves)
    assert packed.rows.equals(plain.rows)


def test_a_column_says_the_gpu_of_each_row(write, moves: Kind) -> None:
    path = write(HEAD + "a,4,2.5,NVIDIA A100-PCIE-40GB\na,4,2.5,NVIDIA B200\nb,8,5,NVIDIA B200\n", "all.csv")
    found = {each.gpu: each for each in measured(path, moves)}
    assert {gpu: len(each.rows) for gpu, each in found.items()} == {"a100-40gb-sxm": 1, "b200-sxm": 2}
    assert "nearest" in found["a100-40gb-sxm"].note
    assert found["b200-sxm"].note == ""


def test_the_option_goes_before_what_the_file_says(write, moves: Kind) -> None:
    (found,) = measured(write(HEAD + "a,4,2.5,NVIDIA B200\n"), moves, "gb200")
    assert found.gpu == "gb200"


def test_a_file_that_names_no_gpu_is_refused_with_the_names(write, moves: Kind) -> None:
    (problem,) = refused(write("who,mib,time_us\na,4,2.5\n", "mine.csv"), moves)
    assert problem.startswith("FILE: which GPU was it measured on? (got 'mine.csv', allowed --gpu NAME, the name of")
    assert "h100-sxm" in problem


def test_a_row_of_an_unknown_gpu_is_refused_at_its_line(write, moves: Kind) -> None:
    (problem,) = refused(write(HEAD + "a,4,2.5,NVIDIA B200\na,4,2.5,RTX 4090\n"), moves)
    assert problem.startswith("FILE:3:4: device: which GPU was it measured on? (got 'RTX 4090'")


def test_every_wrong_cell_is_named_with_its_line_and_what_is_allowed(write, moves: Kind) -> None:
    rows = "a,four,2.5\na,4,0\n,4,1\na,-1,1\na,4,nan\na,4,\na,4,inf\n"
    assert sorted(refused(write("who,mib,time_us\n" + rows), moves)) == [
        "FILE:2:2: mib: wrong value (got 'four', allowed a number, 0 or more)",
        "FILE:3:3: time_us: wrong value (got '0', allowed a number above 0)",
        "FILE:4:1: who: wrong value (got '', allowed text)",
        "FILE:5:2: mib: wrong value (got '-1', allowed a number, 0 or more)",
        "FILE:6:3: time_us: wrong value (got 'nan', allowed a number above 0)",
        "FILE:7:3: time_us: wrong value (got '', allowed a number above 0)",
        "FILE:8:3: time_us: wrong value (got 'inf', allowed a number above 0)",
    ]


def test_many_wrong_cells_are_counted(write, moves: Kind) -> None:
    problems = refused(write("who,mib,time_us\n" + "a,x,1\n" * 25), moves)
    assert len(problems) == 11
    assert problems[-1] == "FILE: 15 more cells are wrong"


def test_a_missing_column_is_named(write, moves: Kind) -> None:
    assert refused(write("who,time_us\na,1\n"), moves) == [
        "FILE:1:1: no table of moves: column mib is missing (got who, time_us, allowed who, mib, time_us)"
    ]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n\n",
        b"who,mib,time_us\n",
        b"\x1f\x8b\x08garbage",
        b"\xff\xfe\x00",
        b"a,b\n1,2,3,4\n1,2\n",
        b'a,b\n"1,2\n',
    ],
    ids=["empty", "blank", "head only", "broken gzip", "no UTF-8", "ragged", "open quote"],
)
def test_what_is_no_table_is_refused(content: bytes, write, moves: Kind) -> None:
    path = write(content)
    assert all(problem.startswith("FILE:") for problem in refused(path, moves))


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SimError, match="No such file"):
        read(tmp_path / "none.csv")
