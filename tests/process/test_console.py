"""Output of real processes: on the terminal as ever, in the Run line by line."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from pluto_dist.spool.reader import ReadLimits, list_streams, read_cut
from tests.patience import PATIENCE_S
from tests.process.harness import Node, look, wait_until

FD = {"PLUTO_DIST_CONSOLE": "fd"}


def records(node: Node, run: str, lease_id: str = "*") -> list[dict[str, Any]]:
    """All console records of a Run or lease in the store; those of one stream in their order."""
    streams = node.store / "runs" / node.document(run)["key"] / "streams"
    return [record for folder in look(streams, lease_id) for record in read_console(str(folder))]


def read_console(folder: str) -> list[dict[str, Any]]:
    """Console records in a lease's folder."""
    return [
        json.loads(line)
        for stream, segments in sorted(list_streams(folder).items())
        if stream.startswith("console")
        for segment, size in segments.items()
        for line in read_cut(folder, stream, segment, 0, ReadLimits(size + 1, size)).lines
    ]


def messages(node: Node, run: str) -> list[str]:
    """What was recorded."""
    return [record["message"] for record in records(node, run)]


def drains(node: Node) -> list[int]:
    """Pids of this node's drains."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes()
            home = (path.parent / "environ").read_bytes()
        except OSError:
            continue
        if b"client.console.drain" in command and str(node.home).encode() in home:
            found.append(int(path.parent.name))
    return found


@pytest.mark.parametrize("console", ["auto", "fd"])
def test_a_crash_leaves_its_last_lines_and_its_traceback(node: Node, console: str) -> None:
    script = node.start(
        """
        run = pluto.init(run_id="crash")
        print("epoch", 1)
        print("unfinished", end="")
        raise ValueError("boom")
        """,
        env={"PLUTO_DIST_CONSOLE": console},
    )
    assert script.wait() == 1
    node.ended("crash")
    found = {record["message"]: record["logType"] for record in records(node, "crash")}
    assert found["epoch 1"] == found["unfinished"] == "PRINT"
    assert found["ValueError: boom"] == found["Traceback (most recent call last):"] == "ERROR"
    assert "ValueError: boom" in script.stderr
    assert script.lines == ["epoch 1", "unfinished"]


def test_a_side_is_captured_only_if_asked(node: Node) -> None:
    owner = node.start('run = pluto.init(run_id="sides"); tell("ready"); hear()', name="owner")
    owner.expect("ready")
    for console in ("auto", "wrap"):
        side = node.start(
            f'run = pluto.attach("sides", label="{console}"); print("a side with {console}")',
            env={"PLUTO_DIST_CONSOLE": console},
        )
        assert side.wait() == 0
        assert side.lines == [f"a side with {console}"]
    owner.say()
    assert owner.wait() == 0
    node.ended("sides")
    wait_until(lambda: messages(node, "sides") == ["a side with wrap"], "the line of the side that asked")


def test_ranks_are_captured_and_off_is_off(node: Node) -> None:
    launcher = node.launcher(2)
    body = 'run = pluto.init(run_id="ranks"); print("rank", os.environ["RANK"]); tell("ready"); hear()'
    ranks = [launcher.rank(0, body), launcher.rank(1, body, env={"PLUTO_DIST_CONSOLE": "off"})]
    for rank in ranks:
        rank.expect("ready")
        rank.say()
    assert [rank.wait() for rank in ranks] == [0, 0]
    node.ended("ranks")
    assert messages(node, "ranks") == ["rank 0"]


def test_secrets_reach_the_terminal_and_not_the_record(node: Node) -> None:
    """G11."""
    script = node.start(
        'run = pluto.init(run_id="secret"); print("token", os.environ["HF_TOKEN"])',
        env={"HF_TOKEN": "hf_0123456789"},
    )
    assert script.wait() == 0
    node.ended("secret")
    assert messages(node, "secret") == ["token ***"]
    assert script.lines == ["token hf_0123456789"]


def test_output_of_a_sweep_belongs_to_the_newest_run(node: Node) -> None:
    script = node.start(
        """
        first = pluto.init(run_id="first"); print("for first")
        second = pluto.init(run_id="second"); print("for second")
        second.finish(); print("for first again")
        first.finish(); print("for nobody")
        """,
        env={"PLUTO_DIST_QUIET": "1"},
    )
    assert script.wait() == 0
    for run in ("first", "second"):
        node.ended(run)
    assert messages(node, "first") == ["for first", "for first again"]
    assert messages(node, "second") == ["for second"]


@pytest.mark.parametrize("console", ["wrap", "fd"])
def test_the_console_of_a_run_goes_on_after_one_inside_of_it(node: Node, console: str) -> None:
    """Each Run has what was written while it was the newest; a second drain of a lease is no first one."""
    script = node.start(
        """
        outer = pluto.init(run_id="outer", quiet=True)
        for name in ("first", "second"):
            print("before", name)
            with pluto.init(run_id=name, quiet=True): print("inside", name)
        print("after")
        outer.finish()
        """,
        env={"PLUTO_DIST_CONSOLE": console},
    )
    assert script.wait() == 0
    assert messages(node, "outer") == ["before first", "before second", "after"]
    assert [messages(node, name) for name in ("first", "second")] == [["inside first"], ["inside second"]]
    assert "not captured" not in script.stderr


@pytest.mark.parametrize("console", ["auto", "fd"])
def test_forked_children_and_pools_are_harmless(node: Node, console: str) -> None:
    script = node.start(
        """
        import multiprocessing

        def work(n):
            print("child", n, flush=True)
            return n

        run = pluto.init(run_id="pool")
        print("the parent's unfinished ", end="", flush=True)
        with multiprocessing.get_context("fork").Pool(2) as pool:
            pool.map(work, range(4))
            pool.close()
            pool.join()
        print("line")
        """,
        env={"PLUTO_DIST_CONSOLE": console},
    )
    assert script.wait() == 0
    node.ended("pool")
    if console == "auto":  # each process has its own line
        wait_until(lambda: len(messages(node, "pool")) == 5, "five lines")
        expected = {"the parent's unfinished line", *(f"child {n}" for n in range(4))}
        assert set(messages(node, "pool")) == expected
    else:  # as on the terminal
        assert [line for line in messages(node, "pool") if line] == script.lines


def test_fd_captures_what_children_and_libraries_write(node: Node) -> None:
    script = node.start(
        """
        import ctypes, subprocess
        run = pluto.init(run_id="fd")
        print("python", flush=True)
        os.write(1, b"descriptor\\n")
        libc = ctypes.CDLL(None)
        libc.puts(b"library")
        libc.fflush(None)
        subprocess.run(["/bin/sh", "-c", "echo child; echo error: child >&2"], check=True)
        run.finish()
        print("later")
        """,
        env=FD,
    )
    assert script.wait() == 0
    node.ended("fd")
    assert script.lines == ["python", "descriptor", "library", "child", "later"]
    assert script.stderr.count("error: child") == 1
    found = records(node, "fd")
    assert [r["message"] for r in found if r["logType"] == "PRINT"] == script.lines[:-1]
    assert [r["message"] for r in found if r["logType"] == "ERROR"] == ["error: child"]


def test_fd_drains_everything_before_the_lease_ends(node: Node) -> None:
    script = node.start(
        """
        run = pluto.init(run_id="flood")
        for n in range(20_000):
            print("line", n, "x" * 50)
        """,
        env=FD,
    )
    assert script.wait() == 0
    node.ended("flood")
    assert len(script.lines) == 20_000
    assert messages(node, "flood") == script.lines


def test_c_code_that_holds_the_interpreters_lock_can_fill_the_pipe(node: Node) -> None:
    """The reason for a process of its own."""
    script = node.start(
        """
        import ctypes
        run = pluto.init(run_id="gil")
        text = b"y" * 99 + b"\\n"
        write = ctypes.PyDLL(None).write  # PyDLL keeps the lock during the call
        for _ in range(10_000):
            write(1, text, len(text))
        run.finish()
        tell("done")
        """,
        env=FD,
    )
    script.expect("done")
    assert script.wait() == 0
    assert script.lines[:-1] == ["y" * 99] * 10_000


def test_the_drains_death_puts_the_descriptors_back_and_the_trainer_goes_on(node: Node) -> None:
    script = node.start(
        """
        run = pluto.init(run_id="orphan")
        print("before", flush=True)
        tell("ready")
        hear()
        for n in range(3000):
            print("after", n, "z" * 50, flush=True)
        tell("done")
        hear()
        """,
        env=FD,
    )
    script.expect("ready")
    (drain,) = drains(node)
    os.kill(drain, signal.SIGSTOP)
    script.say()
    # The trainer now waits in a full pipe: it must come free by the drain's death alone.
    os.kill(drain, signal.SIGKILL)
    script.expect("done")
    expected = ["before", "ready", *(f"after {n} {'z' * 50}" for n in range(3000)), "done"]
    assert sorted(script.lines) == sorted(expected)  # two writers for an instant: order may change there
    assert "console capture ended" in script.stderr
    script.say()
    assert script.wait() == 0
    assert node.ended("orphan")["status"] == "COMPLETED"


def test_a_killed_trainer_is_drained_to_its_last_line(node: Node) -> None:
    script = node.start(
        """
        run = pluto.init(run_id="killed")
        for n in range(500):
            print("line", n, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
        """,
        env=FD,
    )
    assert script.wait() == -signal.SIGKILL
    node.ended("killed")
    assert messages(node, "killed") == script.lines == [f"line {n}" for n in range(500)]


def test_the_drain_ends_when_nobody_writes_any_more(node: Node) -> None:
    script = node.start('run = pluto.init(run_id="end"); tell("ready"); hear()', env=FD)
    script.expect("ready")
    assert len(drains(node)) == 1
    script.say()
    assert script.wait() == 0
    wait_until(lambda: not drains(node), "the end of the drain")


def test_on_a_terminal_programs_still_see_a_terminal(node: Node) -> None:
    argv = node.command(
        """
        import os, sys
        run = pluto.init(run_id="tty", settings={"console": "fd", "quiet": True})
        print(sys.stdout.isatty(), os.get_terminal_size(1).columns)
        sys.stdout.write("50%\\r100%\\n")
        """,
        "tty",
    )
    master, slave = pty.openpty()
    subprocess.run(["stty", "cols", "97"], stdin=slave, check=True)
    with subprocess.Popen(
        argv, stdin=slave, stdout=slave, stderr=slave, env=node.env(), cwd=node.base
    ) as job:
        os.close(slave)
        shown = b""
        while b"100%" not in shown:
            shown += os.read(master, 4096)
        assert job.wait() == 0
    os.close(master)
    node.ended("tty")
    assert re.sub(rb"\r+\n", b"\n", shown) == b"True 97\n50%\r100%\n"
    assert messages(node, "tty") == ["True 97", "100%"]


def logs(node: Node, *arguments: str) -> list[str]:
    """Output of `pluto-dist logs`, line by line."""
    run = [sys.executable, "-c", "from pluto_dist.cli.main import app; app()", "logs", *arguments]
    done = subprocess.run(run, env=node.env(), cwd=node.base, capture_output=True, check=True)
    return done.stdout.decode().splitlines()


def test_logs_prints_what_all_ranks_printed(node: Node) -> None:
    launcher = node.launcher(2)
    body = 'run = pluto.init(run_id="both"); print("I am", os.environ["RANK"]); tell("ready"); hear()'
    ranks = [launcher.rank(n, body) for n in range(2)]
    for rank in ranks:
        rank.expect("ready")
    wait_until(lambda: sorted(logs(node, "both")) == ["[rank0] I am 0", "[rank1] I am 1"], "live lines")
    following = threading.Thread(
        target=lambda: followed.extend(logs(node, "both", "--follow", "--rank", "1"))
    )
    followed: list[str] = []
    following.start()
    for rank in ranks:
        rank.say()
    following.join(PATIENCE_S)
    assert followed == ["[rank1] I am 1"]
    (line,) = map(json.loads, logs(node, "both", "--rank", "0", "--json"))
    assert (line["message"], line["speaker"], line["rank"], line["log_type"]) == (
        "I am 0",
        "rank0",
        0,
        "PRINT",
    )


@pytest.mark.parametrize("console", ["auto", "fd"])
def test_a_sigterm_in_the_middle_of_a_print_ends_the_run_as_ever(node: Node, console: str) -> None:
    script = node.start(
        """
        run = pluto.init(run_id="term")
        print("x" * 2000, flush=True)
        tell("ready")
        while True:
            print("x" * 2000)
        """,
        env={"PLUTO_DIST_CONSOLE": console},
    )
    script.expect("ready")
    script.signal(signal.SIGTERM)
    assert script.wait() == -signal.SIGTERM
    assert node.ended("term")["status"] == "TERMINATED"
    said = set(messages(node, "term")) - {"ready"}  # the last line may be cut where the signal came
    assert "x" * 2000 in said
    assert all(set(line) <= {"x"} for line in said)
    assert "Traceback" not in script.stderr
