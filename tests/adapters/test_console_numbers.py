"""What the coordinator adds to console lines: the number, and who speaks."""

from __future__ import annotations

import json

from pluto_dist.client.console.text import Recorder
from pluto_dist.spool.batches import numbered


def printed(*texts: str) -> list[bytes]:
    """Records as the capture writes them."""
    records: list[bytes] = []
    recorder = Recorder("stdout", records.append, lambda: 1700000000123, lambda line: line)
    for text in texts:
        recorder.feed(text + "\n")
    return records


def test_lines_get_their_numbers_and_keep_the_rest() -> None:
    lines = printed("one", 'a "quoted" \\ line', '{"time":1,"message":"x"}')
    found = [json.loads(line) for line in numbered(lines, 41)]
    assert found == [json.loads(line) | {"lineNumber": 41 + n} for n, line in enumerate(lines)]


def test_the_speaker_stands_in_front_of_the_message() -> None:
    lines = printed("one", 'a "quoted" line', "")
    found = [json.loads(line)["message"] for line in numbered(lines, 1, 'ev"al')]
    assert found == ['[ev"al] one', '[ev"al] a "quoted" line', '[ev"al] ']


def test_a_line_in_another_order_of_fields_is_numbered_all_the_same() -> None:
    line = b'{"message":"x","time":5,"logType":"INFO"}\n'
    assert json.loads(numbered([line], 7, "rank3")[0]) == {
        "message": "[rank3] x",
        "time": 5,
        "logType": "INFO",
        "lineNumber": 7,
    }


def test_a_line_that_is_no_record_stays_as_it_is_and_holds_up_nobody() -> None:
    """G6."""
    lines = [b"not json\n", *printed("fine")]
    found = numbered(lines, 1, "rank0")
    assert found[0] == lines[0]
    assert json.loads(found[1])["lineNumber"] == 2
