"""`pluto-dist run -- CMD…` records what the command prints, whatever the command is."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.process.harness import Node, Script, lease, wait_until
from tests.process.test_console import drains, logs, messages, read_console, records
from tests.process.test_launcher import CLI, launch, python
from tests.process.torchjob import TorchJob

MEGABYTES = 50
LINE = "step 00000012 loss 0.123 accuracy 0.987 in 12.3 s on 8 devices, still going on"


def plain(node: Node, body: str, name: str = "plain") -> list[str]:
    """Command line of a Python script that never imports us."""
    path = node.base / f"{name}.py"
    path.write_text(body)
    return [sys.executable, str(path)]


def said(node: Node, label: str, run: str = "launch") -> list[str]:
    """What one lease of the Run has recorded, by the lease's label."""
    lease_id = lease(node.document(run), label=label)["lease_id"]
    return [record["message"] for record in records(node, run, lease_id)]


def test_what_a_command_prints_is_recorded_line_by_line(node: Node) -> None:
    """Passed on unchanged; the record has no secrets and of a progress bar the last state."""
    node.set(HF_TOKEN="hf_0123456789")
    body = r"""echo "token $HF_TOKEN"; printf '50%%\r100%%\n'; echo error: bad >&2; printf unfinished"""
    script = launch(node, "sh", "-c", body)
    assert script.wait() == 0
    node.ended("launch")
    expected = ["token hf_0123456789", "50%\r100%", "unfinished"]
    wait_until(lambda: script.lines == expected, "the end of the pipe, which comes with the drain's")
    assert script.stderr.count("error: bad\n") == 1
    found = [(each["logType"], each["message"]) for each in records(node, "launch")]
    assert sorted(found) == [
        ("ERROR", "error: bad"),
        ("PRINT", "100%"),
        ("PRINT", "token ***"),
        ("PRINT", "unfinished"),
    ]


def test_a_file_of_both_streams_has_its_lines_in_the_order_in_which_they_were_written(node: Node) -> None:
    """As a batch system's output file has them without us; the record too."""
    body = "import os\nfor n in range(3000): os.write(1 + n % 2, b'line %d\\n' % n)\n"
    argv = [sys.executable, "-P", "-c", CLI, "run", "--run-id", "launch", "--", *plain(node, body)]
    node.set(PLUTO_DIST_QUIET="1")
    path = node.base / "job.out"
    with path.open("a") as output:
        subprocess.run(argv, stdout=output, stderr=output, env=node.env(), cwd=node.base, check=True)
    node.ended("launch")
    assert path.read_text().splitlines() == [f"line {n}" for n in range(3000)] == messages(node, "launch")


def test_the_last_lines_of_a_crash_are_in_the_logs(node: Node) -> None:
    """G7: nobody has to look for the batch system's file."""
    body = "print('epoch 1')\nraise ValueError('boom')\n"
    script = launch(node, *plain(node, body))
    assert script.wait() == 1
    assert node.ended("launch")["status"] == "FAILED"
    assert "ValueError: boom" in script.stderr
    found = logs(node, "launch")
    assert {"epoch 1", "Traceback (most recent call last):", "ValueError: boom"} <= set(found)


def test_lines_of_libraries_and_of_a_command_that_ends_by_a_signal(node: Node) -> None:
    """What the kernel has taken is passed on and recorded, however the command ends."""
    body = """
import ctypes, os, signal
libc = ctypes.CDLL(None)
libc.puts(b"library")
libc.fflush(None)
for n in range(500):
    os.write(1, b"line %d\\n" % n)
os.kill(os.getpid(), signal.SIGKILL)
"""
    script = launch(node, *plain(node, body))
    assert script.wait() == -signal.SIGKILL
    node.ended("launch")
    expected = ["library", *(f"line {n}" for n in range(500))]
    assert messages(node, "launch") == expected
    wait_until(lambda: script.lines == expected, "all lines")


def test_a_command_that_ignores_everything_and_closes_its_stdout(node: Node) -> None:
    script = launch(node, "sh", "-c", "trap '' TERM INT HUP; exec >&-; echo to stderr >&2; exit 3")
    assert script.wait() == 3
    assert failure_code(node) == 3
    assert messages(node, "launch") == ["to stderr"]


def failure_code(node: Node) -> int:
    """The exit code that the Run says."""
    code = node.ended("launch")["verdict"]["first_failure"]["exit_code"]
    assert isinstance(code, int)
    return code


def test_a_stdout_that_is_closed_is_closed_for_the_command_too(node: Node) -> None:
    """The launcher's own files may have got the number; nobody may write there."""
    command = "echo lost 2>/dev/null || echo refused >&2"
    argv = [sys.executable, "-P", "-c", CLI, "run", "--run-id", "launch", "--", "sh", "-c", command]
    argv = ["sh", "-c", 'exec "$@" >&-', "sh", *argv]
    script = node.keep(Script("launch", *node.spawn(argv, "launch")))
    assert script.wait() == 0
    assert node.ended("launch")["status"] == "COMPLETED"
    assert messages(node, "launch") == ["refused"]


def test_the_launcher_does_not_wait_for_who_outlives_its_command(node: Node) -> None:
    """G5: a background process may hold the pipe for ever; what it prints later is passed on."""
    background = "import sys; sys.stdin.readline(); print('later', flush=True)"
    (node.base / "background.py").write_text(background)
    os.mkfifo(node.base / "fifo")
    body = f"{sys.executable} background.py <fifo & echo started"
    script = launch(node, "sh", "-c", body)
    script.expect("started")
    assert script.wait() == 0
    assert node.ended("launch")["status"] == "COMPLETED"
    (node.base / "fifo").write_text("go\n")
    script.expect("later")
    assert messages(node, "launch") == ["started"]


def test_nothing_is_lost_when_the_launcher_is_killed(node: Node) -> None:
    """G3: the drain is a process of its own, and ends with the last who writes."""
    script = launch(node, *python(node, "tell('ready')\nhear()\nfor n in range(500): tell('n', n)"))
    script.expect("ready")
    script.kill()
    assert script.wait() == -signal.SIGKILL
    script.say()
    wait_until(lambda: script.lines[-1] == "n 499", "the last line")
    node.ended("launch")
    wait_until(lambda: messages(node, "launch") == script.lines, "all lines in the record")


def test_nothing_is_lost_but_the_record_when_the_drain_is_killed(node: Node) -> None:
    """The launcher itself passes on what comes then, to the command's last line."""
    script = launch(node, *python(node, "tell('ready')\nhear()\nfor n in range(20_000): tell('n', n)"))
    script.expect("ready")
    (drain,) = drains(node)
    os.kill(drain, signal.SIGSTOP)
    script.say()  # the command now waits in a full pipe
    os.kill(drain, signal.SIGKILL)
    assert script.wait() == 0
    wait_until(lambda: script.lines[-1] == "n 19999", "the last line")
    assert script.lines == ["ready", *(f"n {n}" for n in range(20_000))]
    assert "console capture ended" in script.stderr
    assert node.ended("launch")["status"] == "COMPLETED"


def test_nothing_is_lost_when_the_drain_is_killed_while_the_launcher_waits_for_it(node: Node) -> None:
    """What the command has written before its end is passed on, whoever dies then."""
    script = launch(node, *python(node, "tell('ready')\nhear()\nfor n in range(1000): tell('n', n)"))
    script.expect("ready")
    stdout = Path(f"/proc/{script.pid}/fd/1")
    captured = stdout.readlink()
    (drain,) = drains(node)
    os.kill(drain, signal.SIGSTOP)
    script.say()
    wait_until(lambda: stdout.readlink() != captured, "the launcher's own stdout in its place again")
    os.kill(drain, signal.SIGKILL)
    assert script.wait() == 0
    wait_until(lambda: script.lines[1:] == [f"n {n}" for n in range(1000)], "all lines")


def test_a_drain_that_hangs_is_waited_for_as_long_as_an_exit_may_take(node: Node) -> None:
    """G5: bounded; and what it had not passed on by then it passes on later."""
    node.set(PLUTO_DIST_EXIT_WAIT_S="1")
    script = launch(node, *python(node, "tell('ready')\nhear()\ntell('last', 'words')\nsys.exit(3)"))
    script.expect("ready")
    (drain,) = drains(node)
    os.kill(drain, signal.SIGSTOP)
    try:
        script.say()
        assert script.wait() == 3
        assert "were not recorded within 1 s" in script.stderr
    finally:
        os.kill(drain, signal.SIGCONT)
    assert script.expect("last") == "words"
    assert node.ended("launch")["status"] == "FAILED"


def test_a_command_is_told_when_nobody_reads_any_more(node: Node) -> None:
    """As `yes | head -1` ends."""
    reader, writer = os.pipe()
    argv = [sys.executable, "-P", "-c", CLI, "run", "--run-id", "piped", "--", "yes"]
    with subprocess.Popen(
        argv, stdout=writer, stderr=subprocess.DEVNULL, env=node.env(), cwd=node.base
    ) as job:
        os.close(writer)
        assert os.read(reader, 4) == b"y\ny\n"
        os.close(reader)
        assert job.wait() == -signal.SIGPIPE


LINE_BY_LINE = """
    run, n = None, 0
    while word := hear():
        if word == "init":
            run = pluto.init()
        elif word == "finish":
            run.finish()
        else:
            n += 1
        print(word, n, flush=True)
"""


def test_lines_are_recorded_once_while_a_process_below_records_its_own(node: Node) -> None:
    """The launcher is silent meanwhile, and goes on behind it; in between are milliseconds.

    The command prints one line at a time, so when a line has been passed on, the one before it has been
    recorded, or will never be.
    """
    script = launch(node, *python(node, LINE_BY_LINE))

    def printed(word: str) -> str:
        script.say(word)
        return f"{word} {script.expect(word)}"

    def recorded(line: str) -> bool:
        printed("line")
        folder = node.home / "spool" / "leases" / lease(node.document("launch"), label="launcher")["lease_id"]
        return line in (record["message"] for record in read_console(str(folder)))

    before = [printed("before") for _ in range(5)]
    assert all(map(recorded, before))
    first = printed("init")
    wait_until(lambda: not recorded(printed("inside")), "the launcher is silent")
    inside = [printed("inside") for _ in range(20)]
    assert not any(map(recorded, inside))
    printed("finish")
    wait_until(lambda: recorded(printed("behind")), "the launcher goes on")
    behind = [printed("behind") for _ in range(20)]
    assert all(map(recorded, behind))
    script.say("")
    assert script.wait() == 0
    node.ended("launch")
    by_worker, by_launcher = said(node, "worker"), said(node, "launcher")
    lines = script.lines
    assert by_worker == lines[lines.index(first) : lines.index(by_worker[-1]) + 1]
    assert set(inside) <= set(by_worker)
    assert by_launcher == [line for line in lines if line in set(by_launcher)]
    assert set(before) | set(behind) <= set(by_launcher)


def test_what_records_nothing_of_its_own_is_the_launchers(node: Node) -> None:
    """A side below it, a worker that does not want to; `off` is off for all."""
    body = "run = pluto.init(settings={'console': 'off'}); print('worker', run.role)"
    assert launch(node, *python(node, body)).wait() == 0
    node.ended("launch")
    assert messages(node, "launch") == ["worker worker"]
    node.set(PLUTO_DIST_CONSOLE="off")
    assert launch(node, "echo", "nothing", name="off").wait() == 0
    node.ended("off")
    assert not messages(node, "off")


@pytest.mark.parametrize("console", ["auto", "fd"])
def test_a_terminal_is_touched_only_if_asked(node: Node, console: str) -> None:
    """With `auto` the command has the very terminal, and what is no terminal is recorded beside it."""
    master, slave = pty.openpty()
    terminal = os.ttyname(slave)
    command = "tty >&2; readlink /proc/self/fd/1; test -t 1 && echo terminal"
    argv = [sys.executable, "-P", "-c", CLI, "run", "--run-id", "tty", "--", "sh", "-c", command]
    env = node.env() | {"PLUTO_DIST_CONSOLE": console, "PLUTO_DIST_QUIET": "1"}
    errors = (node.base / "errors").open("w")
    with (
        errors,
        subprocess.Popen(argv, stdin=slave, stdout=slave, stderr=errors, env=env, cwd=node.base) as job,
    ):
        os.close(slave)
        shown = b""
        with contextlib.suppress(OSError):  # EIO: nobody has the terminal any more
            while part := os.read(master, 4096):
                shown += part
        assert job.wait() == 0
    os.close(master)
    lines = re.sub(rb"\r+\n", b"\n", shown).decode().splitlines()
    assert (node.base / "errors").read_text() == f"{terminal}\n"
    node.ended("tty")
    assert lines[1:] == ["terminal"]
    if console == "auto":
        assert lines[0] == terminal
        assert messages(node, "tty") == [terminal]
    else:
        assert lines[0] != terminal
        assert sorted(messages(node, "tty")) == sorted([*lines, terminal])


def test_ranks_of_torchrun_speak_for_themselves_and_torchrun_for_what_it_says(node: Node) -> None:
    """Before the ranks come and when they have gone the launcher records, so also torchrun's own report."""
    pytest.importorskip("torch", reason="torch is not installed here: pip install torch==2.13.0")
    job = TorchJob(
        node,
        "launch",
        """
        sys.stdout.write(f"early {RANK}\\n")  # torchrun's ranks are unbuffered: this is one write
        run = pluto.init()
        train(run, 4)
        say("ready", facts(run))
        print("late", RANK, flush=True)
        leave()
        if RANK == 1:
            raise ValueError("boom")
        """,
        ranks=2,
        under=(sys.executable, "-P", "-c", CLI, "run", "--run-id", "launch", "--"),
    )
    roles = {facts["role"] for facts in job.ready().values()}
    assert roles == {"worker"}
    code = job.wait()
    assert code == 1
    assert node.ended("launch")["status"] == "FAILED"
    found = Counter(messages(node, "launch"))
    assert [found["late 0"], found["late 1"]] == [1, 1]
    assert found["early 0"] + found["early 1"] >= 1
    assert any("ValueError: boom" in line for line in said(node, "rank1"))
    assert any("errors.ChildFailedError" in line for line in said(node, "launcher"))
    assert "[rank1] late 1" in logs(node, "launch")
    assert any(line.startswith("[command] ") for line in logs(node, "launch"))


def test_a_flood_passes_in_order_and_in_bounded_memory(node: Node) -> None:
    """The pipe slows the command down to what the drain can record; nothing grows, nothing is lost."""
    count = MEGABYTES * 1_000_000 // (len(LINE) + 1)
    body = f"import sys\nfor n in range({count}): print({LINE!r})\nsys.stdout.flush()\nsys.stdin.readline()\n"
    script = launch(node, *plain(node, body))
    script.expect("step")
    (drain,) = drains(node)
    wait_until(lambda: len(script.lines) == count, f"{count} lines")
    peak_mb = int(re.findall(r"VmHWM:\s+(\d+)", Path(f"/proc/{drain}/status").read_text())[0]) / 1000
    script.say()
    assert script.wait() == 0
    found = node.ended("launch")
    assert set(script.lines) == {LINE}
    assert lease(found, label="launcher")["delivered"] == count
    assert peak_mb < 50
