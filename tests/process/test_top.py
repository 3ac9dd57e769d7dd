"""`top` in a real terminal: a live Run is on the screen, and the terminal is as it was afterwards."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator

import pytest

from tests.patience import wait_until
from tests.process.harness import Node, Script

pytest.importorskip("textual", reason="the extra `tui` is not installed")

RUN = [sys.executable, "-c", "from pluto_dist.cli.main import app; app(prog_name='pluto-dist')"]
OWNER = """
import pluto_dist as pluto
run = pluto.init(project="demo", run_id="mine", name="looked-at")
for n in range(20):
    run.log({"loss": 1 / (n + 1)})
run.flush(NEVER_S)
print("ready", flush=True)
sys.stdin.readline()
raise RuntimeError("that was it")
"""
ALTERNATE, MAIN = b"\x1b[?1049h", b"\x1b[?1049l"  # xterm's screens


class Terminal:
    """A terminal of 80 × 24 with a program in it.

    Attributes:
        text: all that it has written so far.
    """

    def __init__(self, node: Node, *arguments: str) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        os.set_blocking(self._master, False)
        self.text = b""
        self.process = subprocess.Popen(
            [*RUN, *arguments],
            env=node.env() | {"TERM": "xterm-256color"},
            cwd=node.base,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)

    def press(self, keys: str) -> None:
        """Types."""
        os.write(self._master, keys.encode())

    def until(self, *words: str) -> None:
        """Waits until all of these have been written since the last time."""
        begun = len(self.text)
        wait_until(
            lambda: self._read() and all(word.encode() in self.text[begun:] for word in words),
            lambda: f"{words} in {self.text[begun:][-2000:]!r}",
        )

    def end(self) -> int:
        """Its exit code."""

        def over() -> bool:
            self._read()  # who does not read lets it wait for ever
            return self.process.poll() is not None

        wait_until(over, "the end of the screen")
        self._read()
        return self.process.returncode

    def close(self) -> None:
        """Ends it without ceremony."""
        if self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()
        os.close(self._master)

    def _read(self) -> bool:
        try:
            while True:
                self.text += os.read(self._master, 1 << 16)
        except OSError:  # nothing more for now, or the program has left its terminal
            return True


@pytest.fixture
def owner(node: Node) -> Script:
    """A process whose Run is in the store."""
    script = node.start(OWNER)
    script.expect("ready")
    return script


@pytest.fixture
def terminal(node: Node, owner: Script) -> Iterator[Terminal]:
    made = Terminal(node, "top", "--interval", "0.2")
    yield made
    made.close()


def test_a_live_run_is_shown_until_it_fails_and_why(owner: Script, terminal: Terminal) -> None:
    """G7, seen by a person."""
    terminal.until("looked-at", "RUNNING", "loss", "owner")
    assert ALTERNATE in terminal.text
    owner.say()
    terminal.until("FAILED", "failed first")
    terminal.press("w")
    terminal.until("RuntimeError: that was it")
    terminal.press("\x1b")
    terminal.until("Sort")  # a key of the first screen alone: a q that comes close behind would be Alt+q
    terminal.press("q")
    assert terminal.end() == 0
    assert MAIN in terminal.text


def test_control_c_leaves_it(terminal: Terminal) -> None:
    terminal.until("looked-at")
    terminal.press("\x03")
    assert terminal.end() == 0
    assert MAIN in terminal.text
