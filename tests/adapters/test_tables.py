"""Tables of the command line: widths, folding, colours."""

from __future__ import annotations

import pytest

from pluto_dist.cli import console
from pluto_dist.cli.console import columns_of, table_lines

ROWS = [("a", "FAILED", "1"), ("a name that is long indeed", "COMPLETED", "12345")]


def lines(width: int, *, styled: bool = False) -> list[str]:
    found = table_lines(("NAME", "STATUS", "N"), ROWS, right=("N",), width=width, styled=styled)
    return list(found)


def test_columns_are_as_wide_as_their_cells_and_numbers_stand_right():
    assert lines(80) == [
        "NAME                       STATUS        N",
        "a                          FAILED        1",
        "a name that is long indeed COMPLETED 12345",
    ]


def test_what_is_too_wide_is_folded_and_nothing_is_lost():
    found = lines(30)
    assert max(map(len, found)) <= 30
    assert "".join(line[:14].strip() for line in found[2:]).replace(" ", "") == "anamethatislongindeed"
    assert all(len(line) <= 30 for line in found)


def test_a_terminal_that_is_too_narrow_still_ends():
    assert max(map(len, lines(3))) <= 20


def test_a_status_has_its_colour_only_for_a_person():
    assert "\x1b[1;31mFAILED\x1b[0m" in lines(80, styled=True)[1]
    assert "\x1b" not in "".join(lines(80))


def test_wide_and_combining_characters_are_counted_as_a_terminal_does():
    assert columns_of("漢字") == 4
    assert columns_of("e\u0301") == 1


def test_spare_columns_are_left_out_where_the_terminal_is_narrow(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def heads(columns: int) -> list[str]:
        monkeypatch.setattr(console, "width", lambda: columns)
        console.print_table(("NAME", "STATUS", "N"), ROWS, right=("N",), spare=("N", "STATUS"))
        return capsys.readouterr().out.splitlines()[0].split()

    assert heads(42) == ["NAME", "STATUS", "N"]
    assert heads(41) == ["NAME", "STATUS"]
    assert heads(30) == heads(5) == ["NAME"]
