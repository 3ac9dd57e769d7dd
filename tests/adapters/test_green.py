"""Where threads are greenlets, whatever waits lets the others run."""

from __future__ import annotations

import os
import select
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from pluto_dist.client import green
from pluto_dist.errors import MachineError
from tests.patience import PATIENCE_S


def patched(monkeypatch: pytest.MonkeyPatch, *names: str, by: str = "gevent") -> None:
    """As if a library had replaced these modules."""

    def said(name: str) -> bool:
        return name in names

    if by == "gevent":
        monkeypatch.setitem(sys.modules, "gevent.monkey", SimpleNamespace(is_module_patched=said))
    else:
        monkeypatch.setitem(sys.modules, "eventlet.patcher", SimpleNamespace(is_monkey_patched=said))


@pytest.mark.parametrize(("by", "threads"), [("gevent", "threading"), ("eventlet", "thread")])
def test_green_threads_are_noticed(monkeypatch: pytest.MonkeyPatch, by: str, threads: str) -> None:
    assert not green.threads_are_green()
    patched(monkeypatch, by=by)
    assert not green.threads_are_green(), "the library alone changes nothing"
    patched(monkeypatch, threads, "select", by=by)
    assert green.threads_are_green()


@pytest.mark.parametrize(("by", "threads"), [("gevent", "threading"), ("eventlet", "thread")])
def test_green_threads_that_would_never_run_beside_each_other_are_an_error(
    monkeypatch: pytest.MonkeyPatch, by: str, threads: str
) -> None:
    """R13: at once, instead of an `init()` that never returns."""
    patched(monkeypatch, threads, by=by)
    with pytest.raises(MachineError, match=r"monkey\.patch_all"):
        green.threads_are_green()


@pytest.mark.parametrize("names", [(), ("threading", "select")])
def test_waiting_ends_when_something_can_be_read_or_the_time_is_over(
    monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...]
) -> None:
    patched(monkeypatch, *names)
    read, write = os.pipe()
    green.wait_readable((read,), 0.0)
    os.write(write, b"x")
    green.wait_readable((read,), 60.0)
    os.close(read)
    os.close(write)


def test_a_message_that_is_there_already_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The socket's descriptor tells only of what is new."""
    zmq = pytest.importorskip("zmq")
    context = zmq.Context()
    one, other = context.socket(zmq.PAIR), context.socket(zmq.PAIR)
    one.bind("inproc://green")
    other.connect("inproc://green")
    read, write = os.pipe()
    patched(monkeypatch, "threading", "select")
    waited: list[Any] = []
    real = select.select
    monkeypatch.setattr(select, "select", lambda *given: (waited.append(given[3]), real(*given))[1])
    other.send(b"first")
    assert not green.wait_for_message((one,), read, 60.0)
    assert one.poll(PATIENCE_S * 1000)
    assert not green.wait_for_message((one,), read, 60.0)
    assert waited[-1] == 0.0
    os.write(write, b"!")
    assert green.wait_for_message((one,), read, 60.0)
    context.destroy(linger=0)
    os.close(read)
    os.close(write)
