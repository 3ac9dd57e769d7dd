"""Capture at Python's streams: the stream stays what it is, and what is printed is recorded."""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import sys
import threading
from types import FrameType
from typing import Any

import pytest

from pluto_dist.client.console.capture import StreamCapture, WrapCapture
from pluto_dist.client.console.text import Recorder


class Terminal(io.TextIOWrapper):
    """A stream over bytes in memory."""

    def __init__(self) -> None:
        self.bytes = io.BytesIO()
        super().__init__(self.bytes, encoding="utf-8", write_through=True)

    @property
    def shown(self) -> str:
        """What arrived."""
        return self.bytes.getvalue().decode()


class Tape:
    """A captured stream and its records."""

    def __init__(self, stream: Any) -> None:
        self.records: list[bytes] = []
        self.stream = stream
        self.capture = StreamCapture(
            stream, lambda: Recorder("stdout", self.records.append, lambda: 1, lambda line: line)
        )

    @property
    def messages(self) -> list[str]:
        """Recorded messages."""
        return [json.loads(record)["message"] for record in self.records]


@pytest.fixture
def tape() -> Tape:
    made = Tape(Terminal())
    assert made.capture.start()
    return made


def test_the_terminal_gets_exactly_what_was_printed(tape: Tape) -> None:
    print("one", 2, file=tape.stream)
    print("\r10%", end="", file=tape.stream)
    tape.stream.writelines(["\x1b[1mthree\n", "four"])
    tape.capture.stop()
    assert tape.stream.shown == "one 2\n\r10%\x1b[1mthree\nfour"
    assert tape.messages == ["one 2", "10%three", "four"]


def test_the_stream_is_the_same_object_with_the_same_answers(tape: Tape) -> None:
    assert isinstance(tape.stream, io.TextIOWrapper)
    assert tape.stream.write("four") == 4
    assert tape.stream.encoding == "utf-8"
    assert not tape.stream.isatty()
    tape.stream.buffer.write(b"bytes")
    tape.stream.flush()
    assert tape.stream.shown == "fourbytes"
    with pytest.raises(io.UnsupportedOperation):
        tape.stream.fileno()


def test_after_the_end_nothing_of_the_capture_is_left(tape: Tape) -> None:
    tape.capture.stop()
    assert "write" not in vars(tape.stream)
    print("later", file=tape.stream)
    assert tape.messages == []
    assert tape.stream.shown == "later\n"


def test_a_wrapper_around_ours_keeps_working_and_one_before_ours_comes_back() -> None:
    stream = Terminal()
    plain, seen = stream.write, []

    def theirs(text: str) -> int:
        seen.append(text)
        return plain(text)

    stream.write = theirs  # type: ignore[method-assign] # as other trackers do
    first = Tape(stream)
    first.capture.start()
    ours = stream.write
    stream.write = lambda text: ours(text)  # type: ignore[method-assign] # noqa: PLW0108 # a wrapper
    print("x", file=stream)
    first.capture.stop()
    print("y", file=stream)
    assert seen == ["x", "\n", "y", "\n"]
    assert first.messages == ["x"]
    stream.write = ours  # type: ignore[method-assign]
    first.capture.stop()
    assert stream.write is theirs


def test_print_to_a_closed_stream_fails_as_ever_and_is_not_recorded(tape: Tape) -> None:
    tape.stream.close()
    with pytest.raises(ValueError, match="closed"):
        print("x", file=tape.stream)
    tape.capture.stop()
    assert tape.messages == []


def test_a_stream_that_does_not_allow_it_is_left_alone() -> None:
    class Slotted:
        __slots__ = ()

        def write(self, text: str) -> int:
            return len(text)

    assert not Tape(Slotted()).capture.start()


def test_lines_of_several_threads_are_not_mixed(tape: Tape) -> None:
    start = threading.Barrier(4)

    def speak(name: str) -> None:
        start.wait()
        for n in range(200):
            for part in (name, " says ", str(n), "\n"):
                tape.stream.write(part)

    threads = [threading.Thread(target=speak, args=(f"t{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    tape.capture.stop()
    assert sorted(tape.messages) == sorted(f"t{n} says {m}" for n in range(4) for m in range(200))


def test_the_unfinished_line_of_a_thread_that_is_gone_is_recorded_and_forgotten(tape: Tape) -> None:
    for n in range(200):
        thread = threading.Thread(target=tape.stream.write, args=(f"{n};",))
        thread.start()
        thread.join()
    tape.capture.stop()
    assert sorted("".join(tape.messages).split(";")) == sorted(["", *map(str, range(200))])


def test_a_signal_handler_may_print_while_a_print_is_recorded(tape: Tape) -> None:
    def handler(number: int, frame: FrameType | None) -> None:
        print("from the handler", file=tape.stream)

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        for n in range(50):
            print("main", n, end=" ", file=tape.stream)
            os.kill(os.getpid(), signal.SIGUSR1)
            print("end", file=tape.stream)
    finally:
        signal.signal(signal.SIGUSR1, before)
    tape.capture.stop()
    said = "\n".join(tape.messages)
    assert said.count("from the handler") == 50
    assert said.count("end") == 50


def test_logging_within_a_write_does_no_harm(tape: Tape) -> None:
    logger = logging.Logger("test")
    logger.addHandler(logging.StreamHandler(tape.stream))
    tape.capture.stop()
    inner = tape.stream.write
    tape.stream.write = lambda text: (logger.info("in it") if text == "outer\n" else None, inner(text))[1]
    tape.capture = StreamCapture(
        tape.stream, lambda: Recorder("stdout", tape.records.append, lambda: 1, lambda line: line)
    )
    tape.capture.start()
    tape.stream.write("outer\n")
    tape.capture.stop()
    assert sorted(tape.messages) == ["in it", "outer"]


def test_handlers_that_hold_the_stream_since_before_are_captured() -> None:
    stream = Terminal()
    handler = logging.StreamHandler(stream)
    tape = Tape(stream)
    tape.capture.start()
    handler.emit(logging.LogRecord("x", logging.INFO, "f", 1, "kept %s", ("stream",), None))
    tape.capture.stop()
    assert tape.messages == ["kept stream"]


def test_a_forked_child_does_not_record_its_parents_unfinished_line(tape: Tape) -> None:
    tape.stream.write("the parent's ")
    tape.capture.after_fork()  # what the fork hook does in the child
    tape.stream.write("child\n")
    assert tape.messages == ["child"]


def test_both_standard_streams_are_captured_and_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = Terminal(), Terminal()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    records: list[bytes] = []
    capture = WrapCapture(lambda name: Recorder(name, records.append, lambda: 1, lambda line: line))
    capture.start()
    print("to stdout")
    print("to stderr", file=sys.stderr)
    capture.stop()
    print("later")
    assert [json.loads(record)["logType"] for record in records] == ["PRINT", "INFO"]
    assert "write" not in vars(out) | vars(err)


@pytest.mark.parametrize("missing", [None, "closed"])
def test_a_missing_or_closed_standard_stream_is_skipped(
    missing: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = None if missing is None else Terminal()
    if stream is not None:
        stream.close()
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", Terminal())
    records: list[bytes] = []
    capture = WrapCapture(lambda name: Recorder(name, records.append, lambda: 1, lambda line: line))
    capture.start()
    print("heard", file=sys.stderr)
    capture.stop()
    assert len(records) == 1


def test_one_object_for_both_streams_is_recorded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    both = Terminal()
    monkeypatch.setattr(sys, "stdout", both)
    monkeypatch.setattr(sys, "stderr", both)
    records: list[bytes] = []
    capture = WrapCapture(lambda name: Recorder(name, records.append, lambda: 1, lambda line: line))
    capture.start()
    print("once")
    capture.stop()
    assert len(records) == 1
