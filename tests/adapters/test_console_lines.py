"""From printed text to console records: what a person would have seen, line by line, without secrets."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pluto_dist.client.console.text import (
    MASK,
    PIECE,
    Levels,
    LineCutter,
    LogType,
    Recorder,
    StreamName,
    redactor,
    secrets_of,
)

KEY = "sk-12345678"


def cut(*texts: str, redact: tuple[str, ...] = ()) -> list[str]:
    """All lines of one stream that gets these texts and then ends."""
    cutter = LineCutter(redactor(redact))
    return [line for text in texts for line in cutter.feed(text)] + cutter.end()


def recorded(stream: StreamName, *texts: str) -> list[dict[str, object]]:
    records: list[bytes] = []
    recorder = Recorder(stream, records.append, lambda: 1700000000123, redactor((KEY,)))
    for text in texts:
        recorder.feed(text)
    recorder.end()
    assert all(record.endswith(b"}\n") for record in records)
    return [json.loads(record) for record in records]


@pytest.mark.parametrize(
    ("texts", "lines"),
    [
        (["one\n"], ["one"]),
        (["one", "\n"], ["one"]),
        (["o", "ne\ntw", "o\n"], ["one", "two"]),
        (["\n\n"], ["", ""]),
        (["no newline"], ["no newline"]),
        (["   "], []),
        (["dos\r\n"], ["dos"]),
        (["dos\r", "\n"], ["dos"]),
        (["\r 1%", "\r 2%", "\r100%\n"], ["100%"]),
        (["\r 1%\r 2%"], [" 2%"]),
        (["50%\r", "\r\r", "51%", "\n"], ["51%"]),
        (["\rbar", "\r   \r", "next\n"], ["next"]),
        (["\x1b[31mred\x1b[0m and \x1b]8;;http://x\x07link\x1b]8;;\x07\n"], ["red and link"]),
        (["tab\tstays, bell\x07 and nul\x00 go\n"], ["tab\tstays, bell and nul go"]),
        (["undecodable \udcff\n"], ["undecodable �"]),
        (["wide: 日本 🚀\n"], ["wide: 日本 🚀"]),
    ],
)
def test_lines_are_what_a_terminal_would_show(texts: list[str], lines: list[str]) -> None:
    assert cut(*texts) == lines


@given(st.text("ab\r\n\t", max_size=60), st.lists(st.integers(0, 60), max_size=6))
def test_where_the_text_is_cut_makes_no_difference(text: str, places: list[int]) -> None:
    edges = [0, *sorted(places), len(text)]
    assert cut(*(text[a:b] for a, b in itertools.pairwise(edges))) == cut(text)


def test_a_long_line_becomes_pieces_and_loses_nothing() -> None:
    text = "".join(map(str, range(20_000)))
    pieces = cut(text + "\n")
    assert "".join(pieces) == text
    assert max(map(len, pieces)) == PIECE


def test_text_without_any_newline_takes_bounded_memory() -> None:
    cutter = LineCutter(redactor(()))
    seen = 0
    for _ in range(100):
        seen += sum(map(len, cutter.feed("x" * 5_000)))
    assert 500_000 - seen <= 3 * PIECE
    assert seen + sum(map(len, cutter.end())) == 500_000


def test_a_bar_that_never_ends_its_line_takes_bounded_memory() -> None:
    cutter = LineCutter(redactor(()))
    for n in range(1000):
        assert cutter.feed(f"\r{n}" + "=" * 1000) == []
    assert cutter.end() == ["999" + "=" * 1000]


def test_a_signal_handler_that_prints_within_a_print_loses_no_text() -> None:
    cutter = LineCutter(lambda line: line + "".join(cutter.feed("handler\n")) if line == "main" else line)
    assert cutter.feed("main\n") == ["mainhandler"]
    assert cutter.empty


def test_stdout_is_print_whatever_it_says() -> None:
    assert [Levels("stdout").of(line) for line in ("ERROR: x", "plain")] == ["PRINT", "PRINT"]


@pytest.mark.parametrize(
    ("line", "log_type"),
    [
        ("epoch 3: 50%|#####", "INFO"),
        ("ERROR:root:no such file", "ERROR"),
        ("2026-11-23 04:00:01 - CRITICAL - out of memory", "ERROR"),
        ("clang: error: no input files", "ERROR"),
        ("KeyError: 'loss'", "ERROR"),
        ("WARNING:root:careful", "WARNING"),
        ("a.py:3: DeprecationWarning: old", "WARNING"),
        ("DEBUG:urllib3:GET", "DEBUG"),
        ("TERROR in the WARNINGS", "INFO"),
        ("Fatal Python error: Segmentation fault", "ERROR"),
        ("", "INFO"),
    ],
)
def test_stderr_lines_are_typed_by_what_they_say(line: str, log_type: LogType) -> None:
    assert Levels("stderr").of(line) == log_type
    assert Levels("both").of(line) == log_type.replace("INFO", "PRINT")


def test_a_traceback_is_an_error_to_its_last_line() -> None:
    lines = [
        "Traceback (most recent call last):",
        '  File "a.py", line 1, in <module>',
        "    main()",
        "    ^^^^^^",
        "my.Broken",
        "going on",
    ]
    levels = Levels("stderr")
    assert [levels.of(line) for line in lines] == ["ERROR"] * 5 + ["INFO"]


def test_a_record_has_the_servers_fields_except_the_number() -> None:
    assert recorded("stdout", 'say "hi"\n') == [
        {"time": 1700000000123, "message": 'say "hi"', "logType": "PRINT"}
    ]


def test_secrets_are_masked_in_records() -> None:
    """G11."""
    assert [each["message"] for each in recorded("stderr", f"key={KEY}, again {KEY}\n", KEY)] == [
        f"key={MASK}, again {MASK}",
        MASK,
    ]


@pytest.mark.parametrize("before", [PIECE - 4, 2 * PIECE - 4, 3 * PIECE - 4])
def test_a_secret_at_the_edge_of_a_piece_is_masked(before: int) -> None:
    """G11."""
    for texts in (["x" * before + KEY + "y" * 5], ["x" * before + KEY[:4], KEY[4:] + "y" * PIECE * 2]):
        assert KEY not in "".join(cut(*texts, redact=(KEY,)))


def test_secrets_are_the_values_of_variables_that_look_like_it(tmp_path: object) -> None:
    env = {
        "WANDB_API_KEY": "0123456789",
        "db_password": "hunter2hunter2",
        "AWS_SECRET_ACCESS_KEY": "0123456789abcdef",
        "HF_TOKEN": "short",
        "TOKENIZERS_PARALLELISM": "false",
        "SSH_KEY_PATH": str(tmp_path),
        "HOME": "/home/somebody",
        "PRIVATE_KEY": "-----BEGIN KEY-----\nline-of-the-key\n",
    }
    found = secrets_of(env, "the-api-key", "")
    assert set(found) == {
        "0123456789",
        "hunter2hunter2",
        "0123456789abcdef",
        "-----BEGIN KEY-----",
        "line-of-the-key",
        "the-api-key",
    }
    assert redactor(found)("0123456789abcdef") == MASK
