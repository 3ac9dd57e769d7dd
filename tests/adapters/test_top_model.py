"""What `top` shows: rows, filters, orders, and the words in them, without a screen."""

from __future__ import annotations

import msgspec
import pytest

from pluto_dist.cli.top.model import (
    KEYS,
    PROCESS_COLUMNS,
    RUN_COLUMNS,
    SORTED_COLUMN,
    Asked,
    ago,
    event_line,
    folded,
    headline,
    main_series,
    pace,
    plotted,
    process_rows,
    run_rows,
    size,
)
from pluto_dist.core.values.records import Point, RunEvent
from pluto_dist.read.processes import processes_of
from pluto_dist.read.settle import Situation
from tests.adapters.documents import lease
from tests.adapters.top_world import NOW_MS, failed, healthy, large, rank, run


def cells(seen, asked: Asked | None = None) -> list[dict[str, str]]:
    rows = process_rows(seen, asked or Asked())
    return [dict(zip(PROCESS_COLUMNS, each.row.cells, strict=True)) for each in rows]


def test_a_run_is_one_line():
    (row,) = run_rows([healthy()], Asked(), NOW_MS)
    assert dict(zip(RUN_COLUMNS, row.cells, strict=True)) == {
        "RUN": "DIG-7",
        "NAME": "baseline",
        "STATUS": "RUNNING",
        "AGE": "21min",
        "STEP": "4201",
        "STEP/S": "4.12",
        "LAG": "30",
        "LIVE": "8/8",
        "BACKLOG": "79",
        "LOSS": "0.3127",
    }


def test_a_run_whose_processes_are_gone_is_not_called_running_and_none_of_them_is_counted_as_live():
    """G7."""
    seen = healthy()
    gone = msgspec.structs.replace(
        seen,
        live=False,
        situation=Situation("gone", "gone, not yet judged"),
        processes=tuple(processes_of(seen.document, NOW_MS, known=False)),
    )
    (row,) = run_rows([gone], Asked(), NOW_MS)
    assert (row.cells[2], row.cells[7]) == ("gone, not yet judged", "0/8")
    assert {each["STATE"] for each in cells(gone)} == {"lost"}


def test_three_hundred_ranks_are_a_few_lines_the_worst_first():
    found = cells(large())
    assert [(each["WHO"], each["STATE"]) for each in found] == [
        ("rank250", "died"),
        ("rank77", "stuck"),
        ("ranks 17-19, 21", "behind"),
        ("rank0", "active"),
        ("ranks 1-16, 20, 22-…", "active"),
    ]
    assert found[2]["LAG"] == "99"
    assert len(cells(large(), Asked(grouped=False))) == 300


def test_what_began_the_end_is_named_as_such():
    assert [(each["WHO"], each["STATE"]) for each in cells(failed())] == [
        ("rank2", "failed first"),
        ("rank0", "exited"),
        ("rank1", "exited"),
        ("rank3", "exited"),
    ]


def test_earlier_attempts_and_sides_that_left_are_shown_only_when_asked_for():
    leases = [
        rank(0, 10, state="ended", end_reason="exited"),
        rank(1, 10, state="ended", end_reason="died"),
        rank(2, 3, attempt=1),
        lease("x", "eval", label="eval", state="ended", end_reason="closed"),
        lease("y", "eval2", label="eval2", last_seen_at=NOW_MS),
    ]
    seen = run(1, "again", leases, attempt=1)
    assert [each["WHO"] for each in cells(seen)] == ["rank2", "eval2"]
    assert len(cells(seen, Asked(ended=True))) == 5


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("rank3", ["rank3"]),
        ("BEHIND", ["rank3"]),
        ("side", ["eval"]),
        ("4702", ["rank2"]),
        ("node7 worker rank1", ["rank1"]),
        ("rank1 eval", []),
    ],
)
def test_every_word_of_a_filter_must_be_there(words: str, shown: list[str]):
    assert [each["WHO"] for each in cells(healthy(), Asked(processes=words))] == shown


def test_runs_are_filtered_by_what_they_are_and_where():
    runs = [healthy(), failed(), large()]
    for words, names in [("failed", ["DIG-8"]), ("digits pre", ["DIG-9"]), ("", ["DIG-7", "DIG-8", "DIG-9"])]:
        assert [row.cells[0] for row in run_rows(runs, Asked(runs=words), NOW_MS)] == names


def test_the_next_order_goes_round_through_columns_that_exist():
    asked = Asked(reverse=True)
    for _ in KEYS:
        asked = asked.sorted_by_next()
        assert not asked.reverse
        assert SORTED_COLUMN[asked.by] in PROCESS_COLUMNS
    assert asked.by == "worst"
    assert cells(healthy(), Asked(by="rank", grouped=False))[-1]["WHO"] == "eval"


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["eval/loss", "train/loss", "lr"], "train/loss"),
        (["loss/rank3", "loss", "train/loss"], "loss"),
        (["my_loss_total", "aux_loss"], "aux_loss"),
        (["lr", "sys/cpu.percentage.0"], "lr"),
        (["sys/cpu.percentage.0"], None),
        ([], None),
    ],
)
def test_the_series_that_a_person_most_likely_means(names: list[str], chosen: str | None):
    assert main_series({name: Point(1.0, 1, 1) for name in names}) == chosen


def test_texts_are_not_drawn_and_the_machine_comes_last():
    summary = {"note": Point("hello", 1, 1), "sys/x": Point(1.0, 1, 1), "loss": Point(1.0, 1, 1)}
    assert plotted(summary) == ["loss", "sys/x"]
    assert main_series({"note loss": Point("low", 1, 1)}) is None


def test_the_headline_says_how_the_machine_is():
    line = headline(healthy(), NOW_MS)
    assert line == "baseline  digits  RUNNING  21 min  CPU 76 %, memory 61 %, 8 GPUs 97 % 529G"


def test_the_headline_of_a_run_that_ended_says_why():
    assert headline(failed(), NOW_MS).endswith("FAILED  20 min  rank2 failed first: killed by SIGKILL")


def test_texts_of_programs_cannot_break_a_line():
    seen = run(1, "two\nlines \x1b[31m", [rank(0, 1, label="rank\x1b]0;x\x07")])
    text = "".join(run_rows([seen], Asked(), NOW_MS)[0].cells) + "".join(cells(seen)[0].values())
    assert "\x1b" not in text
    assert "\n" not in text + event_line(RunEvent(1, "side_failed", {"message": "a\nb\x1b"}))


def test_events_name_whom_first_and_leave_ids_out():
    event = RunEvent(1, "side_failed", {"lease": "l1", "type": "ValueError", "label": "eval"})
    assert event_line(event) == "side_failed eval type=ValueError"


def test_events_of_one_kind_share_a_line():
    events = [RunEvent(n, "lease_granted", {"label": f"rank{n}", "lease": "x"}) for n in (1, 2)]
    events += [RunEvent(n, "series_renamed", {"name": "loss"}) for n in (3, 4, 5)]
    events.append(RunEvent(6, "ended", {"status": "FAILED"}))
    assert [(event.at_ms, line) for event, line in folded(events)] == [
        (2, "lease_granted ×2 rank1, rank2"),
        (5, "series_renamed ×3"),
        (6, "ended FAILED"),
    ]


def test_numbers_are_short():
    assert [size(n) for n in (None, 0, 999, 2048, 5 << 20, 71e9, 3 << 40)] == [
        "",
        "0",
        "999",
        "2.0K",
        "5.0M",
        "66G",
        "3.0T",
    ]
    assert [pace(n) for n in (None, 0.0, 0.4, 12.34, 123.4)] == ["", "0", "0.40", "12.3", "123"]
    assert [ago(n) for n in (None, 3.2, 99, 100, 7000, 400_000)] == ["", "3s", "99s", "1min", "1h56", "4d"]
