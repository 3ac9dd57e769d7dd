"""What the official client does that loses data or conflicts, row by row, and what holds it here.

The rows are those of the server contract's list of faults of the official client (0.0.29). Each has the
tests that would fail if this package did the same, or says why it does not apply. The tests themselves are
elsewhere; this file is the table, and makes sure that it stays true.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

TESTS = Path(__file__).parents[1]


class Row(NamedTuple):
    """One fault.

    Attributes:
        fault: what the official client does.
        here: what happens here instead, or why the row does not apply.
        tests: `file::test` below `tests/`; none where the row does not apply.
    """

    fault: str
    here: str
    tests: tuple[str, ...]


RUNS = "process/test_server_runs.py::"
TROUBLE = "process/test_server_trouble.py::"
SHARING = "process/test_server_sharing.py::"
DELIVERY = "process/test_server_delivery.py::"
REMAINDERS = "process/test_server_remainders.py::"
CHAOS = "process/test_server_chaos.py::test_nothing_is_lost_and_nothing_is_said_twice_that_is_not_counted"

ROWS: dict[int, Row] = {
    1: Row(
        "each process sends its own list of tags",
        "tags are merged by the coordinator, also over a resume",
        (
            SHARING + "test_config_and_tags_of_all_ranks_are_merged_one_after_the_other",
            RUNS + "test_resuming_goes_on_with_steps_and_ends_again",
        ),
    ),
    2: Row(
        "any process's finish() ends the Run",
        "only the owner's does",
        (RUNS + "test_ranks_of_a_job_share_one_run_and_keep_their_series_apart",),
    ),
    3: Row(
        "an exception anywhere makes the Run FAILED",
        "a side's is an event; owner's and workers' are evidence for one verdict, sys.exit(n) included",
        (
            SHARING + "test_whatever_becomes_of_a_side_the_run_completes",
            RUNS + "test_a_failure_is_told_with_its_reason",
        ),
    ),
    4: Row(
        "SIGTERM anywhere makes the Run TERMINATED",
        "as for exceptions",
        (SHARING + "test_whatever_becomes_of_a_side_the_run_completes",),
    ),
    5: Row(
        "finish(code) with an unknown code reports nothing",
        "every code has a status",
        (SHARING + "test_every_code_of_finish_reaches_the_server",),
    ),
    6: Row(
        "automatic steps begin at 0 in each process and after each resume",
        "each participant goes on behind its last step, and has series of its own",
        (
            RUNS + "test_resuming_goes_on_with_steps_and_ends_again",
            RUNS + "test_ranks_of_a_job_share_one_run_and_keep_their_series_apart",
        ),
    ),
    7: Row(
        "system metrics of all ranks and hosts overwrite each other",
        "once per node, with the host in the name where there are several",
        (
            "core/test_sampling.py::test_ranks_of_one_run_share_one_stream",
            "core/test_sampling.py::test_the_node_stands_in_the_names_where_the_job_has_several",
            "core/test_sampling.py::test_the_next_coordinator_goes_on_in_the_same_stream",
        ),
    ),
    8: Row(
        "metrics about the upload itself are always at step 0",
        "does not apply: what is pending, rejected or repeated is in `ps` and `show`, not in the series",
        (),
    ),
    9: Row(
        "at most 100 records a second",
        "large requests, one after the other without a pause",
        (
            DELIVERY + "test_a_days_backlog_drains_in_large_requests_and_leaves_no_segment",
            DELIVERY + "test_finish_after_two_thousand_records_is_quick",
        ),
    ),
    10: Row(
        "a batch that fails five times is never sent again",
        "it is sent until there is a definite answer",
        (
            DELIVERY + "test_what_fails_again_and_again_is_not_given_up",
            TROUBLE + "test_a_key_that_is_refused_later_is_told_once_and_everything_waits",
        ),
    ),
    11: Row(
        "failed records do not count as pending",
        "what is not delivered is pending, in the store, and said at the end",
        (REMAINDERS + "test_with_the_server_down_everything_is_in_the_store_and_there_after_sync",),
    ),
    12: Row(
        "one bad line loses its whole batch",
        "steps are checked in log(); a bad line is set aside alone",
        (
            "adapters/test_record.py::test_a_wrong_step_is_an_error_at_once",
            DELIVERY + "test_a_bad_record_is_set_aside_with_its_reason_and_shown",
            "adapters/test_sync_upload.py::test_a_bad_metrics_line_is_set_aside_and_its_neighbours_arrive",
        ),
    ),
    13: Row(
        "every 422 counts as permanent",
        "its text decides: an overloaded key database means later",
        (
            DELIVERY + "test_what_fails_again_and_again_is_not_given_up",
            "adapters/test_backend_pluto_classify.py::test_answer_means",
        ),
    ),
    14: Row(
        "ranks share an uploader that dies with the rank that started it",
        "the coordinator is nobody's child, and anybody starts the next one",
        (
            SHARING + "test_records_go_on_when_the_process_that_came_first_is_gone",
            CHAOS,
        ),
    ),
    15: Row(
        "any rank's end marks the local record of the Run finished",
        "the record of the Run ends with the Run",
        (RUNS + "test_ranks_of_a_job_share_one_run_and_keep_their_series_apart",),
    ),
    16: Row(
        "in a distributed job the status goes out before the tail",
        "the status goes out last, and the last one out waits for it",
        (
            REMAINDERS + "test_after_the_last_rank_nothing_but_the_status_is_to_be_sent",
            RUNS + "test_a_plain_script_brings_everything_to_the_server",
        ),
    ),
    17: Row(
        "every rank sends heartbeats, and a broken sensor stops them",
        "one heartbeat for the node; sensors have nothing to do with it",
        (SHARING + "test_one_heartbeat_and_one_status_for_all_ranks",),
    ),
    18: Row(
        "a cancel is an immediate hard exit",
        "a warning and run.cancelled; an interrupt only on request; what was logged arrives",
        (
            TROUBLE + "test_a_cancel_reaches_all_handles_and_training_decides",
            SHARING + "test_a_cancel_interrupts_only_who_asked_for_it",
        ),
    ),
    19: Row(
        "after a resume by number data goes to the caller's project",
        "it goes to the Run's project",
        (SHARING + "test_data_goes_to_the_project_that_the_run_is_in",),
    ),
    20: Row(
        "RunExistsError comes after the finished Run was set RUNNING",
        "known Runs are refused without asking; what asking has changed is put back",
        (RUNS + "test_a_run_of_another_node_is_reopened_only_if_that_is_meant",),
    ),
    21: Row(
        "one file name under two log names is one upload",
        "addresses are told apart by log name and file name",
        ("adapters/test_backend_pluto_requests.py::test_equal_file_names_under_two_log_names_stay_apart",),
    ),
    22: Row(
        "each retry of an upload adds a metadata row",
        "an address is asked for once and used until the file is stored",
        ("adapters/test_backend_pluto_requests.py::test_file_is_presigned_once_and_put_without_the_key",),
    ),
    23: Row(
        "console line numbers begin at 1 in each process and stream",
        "the coordinator gives numbers: one order for the Run, with the speaker in front",
        (
            "process/test_console_server.py::test_the_lines_of_two_ranks_are_one_order_and_name_their_ranks",
            "adapters/test_sync_upload.py::test_console_of_all_processes_is_one_order",
            CHAOS,
        ),
    ),
    24: Row(
        "config updates of several processes lose keys",
        "they are serialised, one request at a time for each Run",
        (SHARING + "test_config_and_tags_of_all_ranks_are_merged_one_after_the_other",),
    ),
    25: Row(
        "a new name is registered inside of log()",
        "by the coordinator, once for the Run",
        (
            SHARING + "test_new_names_do_not_slow_down_training",
            RUNS + "test_names_are_known_before_their_first_delivery",
        ),
    ),
    26: Row(
        "each finish sends statusMetadata null, so a second one clears the first one's reason",
        "one report with its reason; an end after a resume replaces it",
        (
            SHARING + "test_one_heartbeat_and_one_status_for_all_ranks",
            RUNS + "test_resuming_goes_on_with_steps_and_ends_again",
        ),
    ),
    27: Row(
        "query.upload_file without a step sends null",
        "does not apply: there is no query client here; file lines have a step by their type",
        (),
    ),
    28: Row(
        "the API key is in the uploader's command line",
        "it is in memory only",
        ("process/test_server_key.py::test_the_key_can_be_read_nowhere",),
    ),
}


def test_every_row_is_here() -> None:
    assert list(ROWS) == list(range(1, 29))


@pytest.mark.parametrize("number", ROWS)
def test_row_is_held_by_tests_that_exist(number: int) -> None:
    row = ROWS[number]
    assert bool(row.tests) != row.here.startswith("does not apply: ")
    for name in row.tests:
        file, _, test = name.partition("::")
        assert test in functions(file), f"{name} of row {number} ({row.fault}) is gone"


@cache
def functions(file: str) -> frozenset[str]:
    """Names of all functions in a test file, methods included."""
    tree = ast.parse((TESTS / file).read_text())
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))
