from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from sim.report.tables import percent
from sim.report.text import key_numbers, print_comparison, print_result
from sim.simulation import simulate
from sim.spec.scenario import Measured

LONG_NAMES = ("tp8-pp2-dp8 tp across nodes", "tp16-pp1-dp8 across nodes", "zero3 over 128")


def _printed(write, *, is_terminal: bool) -> str:
    console = Console(file=io.StringIO(), force_terminal=is_terminal, width=120 if is_terminal else None)
    write(console)
    return console.file.getvalue()


def _several(made):
    causes = {"exposed_tp": 59.2, "exposed_dp_reduce": 12.3, "exposed_pp": 0.17, "bubble": 0.5}
    return [made(name, gemm=20.0 + index, **causes) for index, name in enumerate(LONG_NAMES)]


def test_a_comparison_fits_in_120_columns_on_and_off_a_terminal(made):
    for is_terminal in (True, False):
        text = _printed(lambda console: print_comparison(_several(made), console), is_terminal=is_terminal)
        plain = Console(file=io.StringIO()).render_str(text) if not is_terminal else text
        lines = str(plain).splitlines() if not is_terminal else [_bare(line) for line in text.splitlines()]
        assert max(len(line.rstrip()) for line in lines) <= 120
        assert len(lines) == 2 + len(LONG_NAMES)


@pytest.mark.parametrize("width", [60, 80, 100, 120])
def test_a_comparison_on_a_narrow_terminal_cuts_nothing_and_says_what_it_leaves_out(made, width):
    console = Console(file=io.StringIO(), force_terminal=True, width=width)
    print_comparison(_several(made), console)
    lines = [_bare(line) for line in console.file.getvalue().splitlines()]
    text = " ".join(" ".join(lines).split())
    assert max(len(line.rstrip()) for line in lines) <= width
    assert "\N{HORIZONTAL ELLIPSIS}" not in text
    for shown in ("92.17 s", "best", "50.0 %", "40.0 GiB free", "zero3"):
        assert shown in text
    assert ("no room here for: " in text) == (width < 120)
    if width < 120:
        assert "peak GiB" in text.split("no room here for: ")[1]


def test_bars_on_a_narrow_terminal_keep_their_ratio(made):
    console = Console(file=io.StringIO(), force_terminal=True, width=60)
    print_result(made("only", gemm=8.0, exposed_tp=4.0, bubble=2.0), console)
    bars = [line.count("\N{FULL BLOCK}") for line in console.file.getvalue().splitlines()]
    longest = max(bars)
    assert [bar for bar in bars if bar] == [
        longest,
        pytest.approx(longest / 2, abs=1),
        pytest.approx(longest / 4, abs=1),
    ]
    assert longest > 4


def test_a_terminal_without_unicode_gets_bars_of_ascii(made):
    buffer = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    print_result(made("only", gemm=8.0), Console(file=buffer, force_terminal=True, width=100))
    buffer.seek(0)
    assert "#" * 40 in buffer.read()


def _bare(line: str) -> str:
    """Without colours."""
    from rich.text import Text  # noqa: PLC0415 - only this helper reads colours

    return Text.from_ansi(line).plain


def test_off_a_terminal_there_are_no_colours_and_no_frames(made):
    result = made("only", gemm=6.0, exposed_tp=3.0, bubble=1.0)
    for write in (lambda c: print_result(result, c), lambda c: print_comparison(_several(made), c)):
        text = _printed(write, is_terminal=False)
        assert text.isascii()
        assert "\x1b" not in text


def test_a_result_shows_every_group_with_its_seconds_and_share(made):
    result = made("only", gemm=6.0, exposed_tp=3.0, bubble=1.0)
    for is_terminal in (True, False):
        text = _printed(lambda console: print_result(result, console), is_terminal=is_terminal)
        words = [" ".join(_bare(line).split()) for line in text.splitlines()]
        for row in ("matrix products 6.000 s 60.0 %", "pipeline bubble 1.000 s 10.0 %"):
            assert any(line.startswith(row) for line in words)


def test_notes_and_a_measurement_are_shown(made):
    result = made("only", gemm=6.0)
    scenario = result.scenario.model_copy(update={"measured": Measured(step_time=5.0, source="a paper")})
    text = _printed(
        lambda console: print_result(replace(result, scenario=scenario, notes=("mind the gap",)), console),
        is_terminal=False,
    )
    assert "5.000 s, +20.0 % simulated (a paper)" in text
    assert "note: mind the gap" in text


@pytest.mark.parametrize(("schedule", "is_own_span"), [("zb_h1", False), ("zb_h2", True)])
def test_a_closed_form_stands_beside_the_bubble_that_it_is_about(small, schedule, is_own_span):
    result = simulate(small({"layout.pp": 2, "layout.schedule": schedule}))
    said = dict(key_numbers(result))["bubble"]
    before, closed = said.split(" (")
    assert closed.startswith(("closed form", "no closed form"))
    assert before.startswith(percent(result.bubble_fraction))
    assert before.endswith(percent(result.bubble_fraction_steady)) == is_own_span
    assert ("within each rank's own span" in before) == is_own_span
