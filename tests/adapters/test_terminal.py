"""The user's streams may be anything: nothing that is said there ends a call of this package."""

from __future__ import annotations

import errno
import io
import logging
import os
import sys
from typing import Any

import pytest

from pluto_dist.client import notices
from pluto_dist.client.console.capture import WrapCapture
from pluto_dist.client.console.fd import flush_python_streams
from pluto_dist.client.notices import Waiting
from pluto_dist.client.terminal import is_terminal, tell
from pluto_dist.coordinator.log import say
from pluto_dist.host.settings import Settings
from tests.adapters.test_console_wrap import Tape
from tests.adapters.test_notices import view


class OnlyWrite:
    """The least that `print` needs."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> None:
        self.text += text


class Slotted:
    """Its `write` cannot be replaced."""

    __slots__ = ("text",)

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> int:
        self.text += text
        return len(text)


class Broken(OnlyWrite):
    """Raises what no stream should raise."""

    def flush(self) -> None:
        raise ZeroDivisionError("flush")

    def isatty(self) -> bool:
        raise KeyError("isatty")

    @property
    def closed(self) -> bool:
        raise LookupError("closed")


class Dead(Broken):
    """Cannot be written to either."""

    def write(self, text: str) -> None:
        raise ValueError("I/O operation on closed file")


ANY = [None, OnlyWrite(), Slotted(), Broken(), Dead(), io.BytesIO(), object()]
anything = pytest.mark.parametrize("stream", ANY, ids=lambda stream: type(stream).__name__)


@anything
def test_a_line_is_written_if_it_can_be(stream: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", stream)
    assert tell("a line") == (hasattr(stream, "text") and not isinstance(stream, Dead))
    assert not is_terminal(stream)


@anything
def test_a_warning_without_logging_set_up_raises_nothing(
    stream: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python's own last resort raises where stderr does."""
    logger = logging.getLogger("pluto_dist")
    monkeypatch.setattr(logger, "propagate", False)
    monkeypatch.setattr(logger, "handlers", [])
    monkeypatch.setattr(sys, "stderr", stream)
    logger.warning("%s", "said")
    if isinstance(stream, OnlyWrite) and not isinstance(stream, Dead):
        assert stream.text.endswith("pluto_dist: said\n")


@anything
def test_what_init_and_finish_print_raises_nothing(stream: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", stream)
    said = view(role="owner")
    notices.started(said, Settings(), "/spool")
    notices.finished(said, Settings(), 0)
    with Waiting(Settings()) as waiting:
        waiting.show(said, 1.0)


@anything
def test_the_descriptors_are_captured_whatever_python_has_in_front_of_them(
    stream: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", stream)
    flush_python_streams()


@pytest.mark.parametrize("kind", [OnlyWrite, Slotted, Broken])
def test_any_stream_with_a_write_is_recorded(kind: type[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    stream = kind()
    if kind is Broken:
        monkeypatch.setattr(Broken, "closed", False)
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", stream)
    tape = Tape(io.StringIO())
    capture = WrapCapture(lambda _: tape.capture._recorder())
    capture.start()
    print("one")
    print("two", file=sys.stderr)
    capture.stop()
    print("three")
    assert tape.messages == ["one", "two"]
    assert stream.text == "one\ntwo\nthree\n"
    assert sys.stdout is sys.stderr is stream


@anything
def test_capturing_what_cannot_be_captured_is_no_error(stream: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", None)
    capture = WrapCapture(lambda _: pytest.fail("nothing is written"))
    capture.start()
    capture.stop()
    assert sys.stdout is stream


def test_a_log_on_a_full_disk_does_not_end_the_coordinator(monkeypatch: pytest.MonkeyPatch) -> None:
    """G12: its log may lie on the disk that is full."""

    class Full(OnlyWrite):
        def write(self, text: str) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(sys, "stderr", Full())
    say("started", pid="1")


def test_what_is_no_text_goes_to_the_stream_and_is_not_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream may take bytes; the record has lines of text."""
    stream = io.BytesIO()
    tape = Tape(OnlyWrite())
    monkeypatch.setattr(tape.stream, "write", stream.write)
    tape = Tape(tape.stream)
    assert tape.capture.start()
    tape.stream.write(b"raw")
    assert stream.getvalue() == b"raw"
    assert tape.messages == []
