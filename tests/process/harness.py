"""Real processes for tests: a private node, scripts that are started on it, and what the store holds after.

A `Node` has its own short home (sockets have short names), its own store and its own coordinator. A `Script`
is a process whose lines are read as they come, so that tests wait for what a script says and never for time.
Ranks are children of a `Launcher`, a process of its own, because job detection looks at real ancestors.

Nothing outlives the test: every process is ended by its pid, the coordinator too.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import select
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import textwrap
import threading
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pluto_dist.spool.reader import list_streams, read_cut
from tests import nobody
from tests.patience import NEVER_S, PATIENCE_S, wait_until
from tests.process import coordinator_boot

CHECKOUT = Path(__file__).parents[2]
PRELUDE = "from tests.process.stage import *\nimport os, sys, signal, threading, time\n"

# Bounds of waits for somebody else; where all is well nothing comes near them, however slow the machine is.
PATIENT = {f"PLUTO_DIST_{name}_WAIT_S": f"{NEVER_S:g}" for name in ("OPEN", "EXIT", "SIGTERM", "PREEMPT")}


class Point(NamedTuple):
    """One point of a series as the store has it."""

    lease_id: str
    logged_as: str
    name: str
    step: int
    value: float | str


def look(folder: Path, pattern: str) -> list[Path]:
    """What matches below a folder, sorted, while others make and remove things there.

    `glob` breaks off where a folder goes away between being listed and being looked into; then all is looked
    at again.
    """
    while True:
        with contextlib.suppress(FileNotFoundError):
            return sorted(folder.glob(pattern))


def modes(*folders: Path) -> dict[Path, int]:
    """Permissions of everything in folders that others work in; what is gone meanwhile is left out."""
    found = {}
    for path in (path for folder in folders for path in (folder, *look(folder, "**/*"))):
        with contextlib.suppress(FileNotFoundError):
            found[path] = stat.S_IMODE(path.lstat().st_mode)
    return found


def holding(folder: Path, secret: bytes) -> list[Path]:
    """Files below a folder that others work in which have these bytes in them."""
    found = []
    for path in look(folder, "**/*"):
        with contextlib.suppress(FileNotFoundError):
            if path.is_file() and secret in path.read_bytes():
                found.append(path)
    return found


class Pid:
    """One process, whatever becomes of its number.

    A launcher collects its ranks, and the kernel gives their numbers away again: within a minute on a machine
    where much is tested. Whoever signals a number then hits somebody else's work.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._fd: int | None = None
        with contextlib.suppress(ProcessLookupError):  # collected already
            self._fd = os.pidfd_open(pid)

    @property
    def gone(self) -> bool:
        """Whether it is dead, a zombie included."""
        if self._fd is None:
            return True
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        return bool(poll.poll(0))

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal.

        Raises:
            ProcessLookupError: it has been collected.
        """
        if self._fd is None:
            raise ProcessLookupError(f"process {self._pid} has been collected")
        signal.pidfd_send_signal(self._fd, number)

    def close(self) -> None:
        """Gives the descriptor back; from then on it is gone."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


class Script:
    """A process of a test. Its stdout is read line by line, its stderr is kept.

    Args:
        name: for failure messages.
        stdin, stdout: the test's ends of its pipes.
        stderr: path of the file that holds what it wrote there.
    """

    def __init__(self, name: str, pid: int, stdin: int, stdout: int, stderr: Path) -> None:
        self.name = name
        self.pid = pid
        self._process = Pid(pid)
        self.lines: list[str] = []
        self._stdin = stdin
        self._stdout = stdout
        self._stderr = stderr
        self._queue: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._code: int | None = None

    def expect(self, word: str) -> str:
        """The rest of the next line that begins with this word; lines before it are skipped."""
        while True:
            try:
                line = self._queue.get(timeout=PATIENCE_S)
            except queue.Empty:
                raise AssertionError(self._report(f"does not say {word!r}")) from None
            if line is None:
                raise AssertionError(self._report(f"ended without saying {word!r}"))
            head, _, rest = line.partition(" ")
            if head == word:
                return rest

    def expect_json(self, word: str) -> Any:
        """As `expect`, and decodes what follows."""
        return json.loads(self.expect(word))

    def say(self, line: str = "go") -> None:
        """Gives the script a line to `hear()`."""
        os.write(self._stdin, line.encode() + b"\n")

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal; a stranger who has got its pid meanwhile gets none."""
        self._process.signal(number)

    def kill(self) -> None:
        """SIGKILL."""
        self.signal(signal.SIGKILL)

    @property
    def gone(self) -> bool:
        """Whether the process is dead, a zombie included."""
        return self._process.gone

    def wait(self) -> int:
        """Exit code as `subprocess` has it (negative: a signal)."""
        wait_until(lambda: self._poll() is not None, lambda: self._report("does not end"))
        assert self._code is not None
        return self._code

    @property
    def stderr(self) -> str:
        """What it wrote to stderr so far."""
        return self._stderr.read_text(errors="replace")

    def close(self) -> None:
        """Ends the process, if it still lives, and gives everything back."""
        if not self.gone:
            with contextlib.suppress(ProcessLookupError):
                self.kill()
                self.signal(signal.SIGCONT)
        self._reap()
        self._process.close()
        os.close(self._stdin)
        self._reader.join(PATIENCE_S)
        os.close(self._stdout)

    def _poll(self) -> int | None:
        """The exit code, without collecting the zombie: the coordinator may still want to look at it."""
        if self._code is None:
            found = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if found is not None:
                self._code = found.si_status if found.si_code == os.CLD_EXITED else -found.si_status
        return self._code

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)

    def _read(self) -> None:
        with open(self._stdout, "rb", closefd=False) as lines:
            for line in lines:
                text = line.decode(errors="replace").rstrip("\n")
                self.lines.append(text)
                self._queue.put(text)
        self._queue.put(None)

    def _report(self, what: str) -> str:
        return f"{self.name} (pid {self.pid}) {what}; it said {self.lines[-20:]}\n{self.stderr[-4000:]}"


class Child(Script):
    """A process that another one has started for the test: its exit code is what that one tells."""

    def __init__(self, parent: Parent, *what: Any) -> None:
        self._parent = parent
        super().__init__(*what)

    def _poll(self) -> int | None:
        if self._code is None:
            self._code = self._parent.codes.get(self.pid)
        return self._code

    def _reap(self) -> None:
        self._parent.reap(self.pid)


class Parent(Script):
    """A process of a test that starts others; stays until it is killed or `close`d.

    Args:
        node: where it runs.
        program: a file beside this one, which says how it is talked to, and its arguments.
    """

    def __init__(self, node: Node, *program: str, env: Mapping[str, str] | None = None) -> None:
        self.codes: dict[int, int] = {}
        self._pids: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._asking = threading.Lock()
        self._talk, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        name, *arguments = program
        argv = [sys.executable, "-P", str(Path(__file__).with_name(f"{name}.py")), *arguments]
        super().__init__(name, *node.spawn(argv, name, env=env, stdin=theirs.fileno()))
        theirs.close()
        threading.Thread(target=self._hear, daemon=True).start()

    def child(self, node: Node, name: str, argv: list[str], env: Mapping[str, str]) -> Child:
        """Has a program started, with the files and the folder that scripts have."""
        child_in, our_in = os.pipe()
        our_out, child_out = os.pipe()
        stderr, path = node.stderr(name)
        order = {"argv": argv, "env": node.env() | dict(env), "cwd": str(node.base)}
        with self._asking:
            socket.send_fds(self._talk, [json.dumps(order).encode()], [child_in, child_out, stderr])
            try:
                pid = self._pids.get(timeout=PATIENCE_S)
            except queue.Empty:
                raise AssertionError(self._report(f"does not start {name}")) from None
        for descriptor in (child_in, child_out, stderr):
            os.close(descriptor)
        made: Child = node.keep(Child(self, name, pid, our_in, our_out, path))
        return made

    def reap(self, pid: int) -> None:
        """A launcher does it as its ranks end; when it has died, pid 1 does."""

    def close(self) -> None:
        super().close()
        self._talk.close()

    def _hear(self) -> None:
        with contextlib.suppress(OSError), self._talk.makefile("rb") as answers:
            for line in answers:
                told = json.loads(line)
                if "code" in told:
                    self.codes[told["pid"]] = told["code"]
                else:
                    self._pids.put(told["pid"])


class Zygote(Parent):
    """Starts programs behind imports that take seconds; see `zygote.py`."""

    def __init__(self, *modules: str) -> None:
        self._node = Node()
        quiet = {"PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        super().__init__(self._node, "zygote", *modules, env=quiet)

    def reap(self, pid: int) -> None:
        """Its children stay zombies until they are looked at no more."""
        with self._asking:
            socket.send_fds(self._talk, [json.dumps({"reap": pid}).encode()], [])

    def close(self) -> None:
        super().close()
        self._node.close()


ZYGOTES: dict[tuple[str, ...], Zygote] = {}


def zygote(*modules: str) -> Zygote:
    """The one that has imported these; it stays until the session of tests is over."""
    if modules not in ZYGOTES:
        ZYGOTES[modules] = Zygote(*modules)
    return ZYGOTES[modules]


class Launcher(Parent):
    """Starts ranks with torchrun's environment."""

    def __init__(self, node: Node, *, world: int, run_id: str = "none", max_restarts: int = 0) -> None:
        self.node = node
        self.world = world
        self._job = {
            "WORLD_SIZE": str(world),
            "LOCAL_WORLD_SIZE": str(world),
            "GROUP_RANK": "0",
            "GROUP_WORLD_SIZE": "1",
            "TORCHELASTIC_RUN_ID": run_id,
            "TORCHELASTIC_MAX_RESTARTS": str(max_restarts),
            "TORCHELASTIC_USE_AGENT_STORE": "True",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(29000 + os.getpid() % 1000),
        }
        super().__init__(node, "launcher")

    def rank(self, rank: int, body: str, *, attempt: int = 0, wrapped: bool = False, **more: Any) -> Child:
        """Starts one rank; `wrapped` puts a shell between it and the launcher, as many jobs do."""
        env = self.rank_env(rank, attempt) | more.pop("env", {})
        name = more.pop("name", f"rank{rank}" + (f".{attempt}" if attempt else ""))
        argv = self.node.command(body, name, **more)
        if wrapped:
            argv = ["/bin/sh", "-c", '"$@"; exit $?', "wrapper", *argv]
        return self.child(self.node, name, argv, env)

    def rank_env(self, rank: int, attempt: int = 0) -> dict[str, str]:
        """What torchrun gives to a rank."""
        place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "ROLE_RANK": str(rank)}
        return self._job | place | {"TORCHELASTIC_RESTART_COUNT": str(attempt)}


class Node:
    """A private node: home, store, ledger, coordinator.

    Args:
        settings: environment variables that all its scripts get, e.g. PLUTO_DIST_HEARTBEAT_S; a test that is
            about a bound sets it.
    """

    def __init__(self, **settings: str) -> None:
        self.base = Path(tempfile.mkdtemp(prefix="pd", dir="/tmp"))
        self.home = self.base / "h"
        self.store = self.base / ".pluto"
        self.ledger = self.base / "ledger"
        self._settings = settings
        self._scripts: list[Script] = []
        self._names: Counter[str] = Counter()
        self._mounted = False

    def set(self, **settings: str) -> None:
        """Environment variables that scripts get from now on."""
        self._settings |= settings

    def constants(self, changed: Mapping[str, float]) -> None:
        """What is different in coordinators that start from now on, by module and name.

        The first call has to come before the scripts that start them.
        """
        path = self.base / "constants.json"
        path.write_text(json.dumps(changed))
        self._settings[coordinator_boot.CONSTANTS] = str(path)

    # --- processes --------------------------------------------------------------------------------

    def start(
        self, body: str, *args: str, name: str = "script", env: Mapping[str, str] | None = None
    ) -> Script:
        """Starts a Python script, a child of the test process; `stage.py`'s names are there."""
        argv = self.command(body, name, *args)
        return self.keep(Script(name, *self.spawn(argv, name, env=env)))

    def launcher(self, world: int, **more: Any) -> Launcher:
        """Starts a launcher for so many ranks."""
        return self.keep(Launcher(self, world=world, **more))

    def command(self, body: str, name: str, *args: str) -> list[str]:
        """Writes the script to a file; returns its command line."""
        self._names[name] += 1
        path = self.base / f"{name}{self._names[name] if self._names[name] > 1 else ''}.py"
        path.write_text(PRELUDE + textwrap.dedent(body))
        return [sys.executable, "-P", str(path), *args]

    def spawn(
        self, argv: list[str], name: str, *, env: Mapping[str, str] | None = None, stdin: int | None = None
    ) -> tuple[int, int, int, Path]:
        """Starts a program; returns pid, our ends of stdin and stdout, and the file of its stderr."""
        read_in, our_in = os.pipe()
        our_out, write_out = os.pipe()
        stderr, path = self.stderr(name)
        process = subprocess.Popen(
            argv,
            stdin=read_in if stdin is None else stdin,
            stdout=write_out,
            stderr=stderr,
            env=self.env() | dict(env or {}),
            cwd=self.base,
        )
        process.returncode = 0  # `Script` waits for it, so that zombies stay until the test allows
        for descriptor in (read_in, write_out, stderr):
            os.close(descriptor)
        return process.pid, our_in, our_out, path

    def keep(self, script: Any) -> Any:
        """Sees to it that a process ends with the node."""
        self._scripts.append(script)
        return script

    def env(self) -> dict[str, str]:
        """Environment of all scripts: what the tests themselves have, and a home of their own."""
        own = {
            "HOME": str(self.base),
            "PYTHONPATH": str(CHECKOUT),
            "PLUTO_DIST_SYSTEM_METRICS_S": "0",  # on a slow machine they would be a lease more
            "PLUTO_DIST_HOME": str(self.home),
            "PLUTO_DIR": str(self.base),
            "PD_TEST_LEDGER": str(self.ledger),
        }
        return nobody.environment() | PATIENT | own | self._settings

    def stderr(self, name: str) -> tuple[int, Path]:
        """A new file for a process's stderr."""
        fd, path = tempfile.mkstemp(prefix=f"{name}.", suffix=".err", dir=self.base)
        return fd, Path(path)

    def cli(self, *arguments: str, code: int = 0) -> str:
        """What a command of `pluto-dist` prints; its stderr where it is to end with another code than 0."""
        command = [sys.executable, "-c", "from pluto_dist.cli.main import app; app()", *arguments]
        done = subprocess.run(
            command, env=self.env(), cwd=self.base, capture_output=True, text=True, check=False
        )
        assert done.returncode == code, f"{arguments}: {done.stderr}"
        return done.stderr if code else done.stdout

    # --- coordinator ------------------------------------------------------------------------------

    @property
    def log(self) -> str:
        """The coordinator's log."""
        path = self.home / "run" / "coordinator.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def said(self, event: str) -> list[dict[str, str]]:
        """Lines of the coordinator's log with this event."""
        lines = (json.loads(line) for line in self.log.splitlines() if line.startswith("{"))
        return [line for line in lines if line["event"] == event]

    def coordinators(self) -> list[int]:
        """Pids of this node's coordinators that are alive; more than one for a moment at most."""
        pids = {int(pid) for pid in re.findall(r'"event": "started", "pid": "(\d+)"', self.log)}
        return sorted(pid for pid in pids if self._is_ours(pid))

    def coordinator(self) -> int:
        """Pid of the one coordinator; waits until there is one."""
        return wait_until(self.coordinators, "a coordinator")[0]

    def kill_coordinator(self) -> int:
        """SIGKILL; returns when it is dead."""
        pid = self.coordinator()
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: _is_dead(pid), f"coordinator {pid} is dead")
        return pid

    def started(self) -> list[int]:
        """Coordinators of this node, those included that are only on their way."""
        pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
        return [pid for pid in pids if self._is_ours(pid) and not _is_dead(pid)]

    def _is_ours(self, pid: int) -> bool:
        with contextlib.suppress(OSError):
            arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            spawner = any(argument.endswith(b"/spawn.py") for argument in arguments)  # not one itself
            return f"--runtime={self.home / 'run'}".encode() in arguments and not spawner
        return False

    # --- what is in the store ---------------------------------------------------------------------

    def documents(self) -> list[dict[str, Any]]:
        """Documents of all Runs, oldest first."""
        found = [json.loads(path.read_bytes()) for path in look(self.store, "runs/*/run.json")]
        return sorted(found, key=lambda document: document["id"] or 0)

    def document(self, run: str) -> dict[str, Any]:
        """The document of one Run by run_id, display id or name; waits until it is there."""

        def find() -> list[dict[str, Any]]:
            named = ("run_id", "display_id", "name", "key")
            return [found for found in self.documents() if run in (found[name] for name in named)]

        return wait_until(find, f"a document of Run {run}")[0]

    def ended(self, run: str) -> dict[str, Any]:
        """The document of a Run that has a final status and everything of its leases."""

        def whole() -> dict[str, Any] | None:
            found = self.document(run)
            return found if found["status"] != "RUNNING" and found["reported"] else None

        found = wait_until(whole, lambda: f"the end of Run {run}: {self.document(run)}")
        assert isinstance(found, dict)
        return found

    def points(self, run: str) -> list[Point]:
        """All points of a Run as the store has them, read without the package's export."""
        document = self.document(run)
        participants = {lease["lease_id"]: lease["participant"] for lease in document["leases"]}
        final = {name: series["others"] for name, series in document["restore"]["series"].items()}
        points = []
        for folder in look(self.store / "runs" / document["key"] / "streams", "*"):
            others = participants[folder.name]
            for line in _lines(folder):
                for name, value in _values(line):
                    renamed = final.get(name, {}).get(others, name)
                    points.append(Point(folder.name, name, renamed, line["step"], value))
        return points

    def lost(self, run: str) -> list[str]:
        """What returned `log()` calls recorded and the store does not have; empty when all is well (G3)."""
        stored: Counter[tuple[str, str, str]] = Counter()
        for point in self.points(run):
            stored[point.lease_id, point.logged_as, repr(point.value)] += 1
            stored[point.lease_id, f"{point.logged_as}@{point.step}", repr(point.value)] += 1
        leases = {lease["lease_id"] for lease in self.document(run)["leases"]}
        missing = []
        for line in self.ledger.read_text().splitlines() if self.ledger.exists() else []:
            lease_id, step, data = json.loads(line)
            for name, value in data.items() if lease_id in leases else ():
                key = (lease_id, name if step is None else f"{name}@{step}", repr(value))
                stored[key] -= 1
                if stored[key] < 0:
                    missing.append(f"{lease_id} {name}@{step} = {value}")
        return missing

    # --- the end ----------------------------------------------------------------------------------

    def report(self, about: str = "") -> str:
        """For the message of a failed test: everything, or only scripts and Runs whose name is in `about`."""
        scripts = [script for script in self._scripts if not about or f"[{script.name}]" in about]
        found = [each for each in self.documents() if not about or f"[{each['run_id']}]" in about]
        parts = [f"--- {script.name} (pid {script.pid}) stderr\n{script.stderr}" for script in scripts]
        parts += [f"--- coordinator.log\n{self.log[-8000:]}"]
        for each in found:
            parts += [f"--- Run {each['run_id']} {each['status']} {each['phase']} {each['verdict']}"]
            parts += [*map(str, each["leases"]), *map(str, each["events"])]
        return "\n".join(parts)

    def mount(self, options: str) -> bool:
        """Puts the home on a tmpfs of its own; False where that is not allowed."""
        self.home.mkdir(mode=0o700)
        command = ["mount", "-t", "tmpfs", "-o", f"mode=0700,{options}", "tmpfs", str(self.home)]
        self._mounted = subprocess.run(command, check=False, capture_output=True).returncode == 0
        return self._mounted

    def close(self) -> None:
        """Ends all processes that are left and removes the folders."""
        self.stop()
        if self._mounted:
            subprocess.run(["umount", "-l", str(self.home)], check=True)
        shutil.rmtree(self.base, ignore_errors=True)

    def stop(self) -> None:
        """Ends all processes that are left."""
        while self._scripts:
            self._scripts.pop().close()
        while pids := self.started():
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                wait_until(lambda pid=pid: _is_dead(pid), f"coordinator {pid} is dead")


def lease(document: Mapping[str, Any], **wanted: Any) -> dict[str, Any]:
    """The one lease of a document that has these values."""
    found = [
        each for each in document["leases"] if all(each[name] == value for name, value in wanted.items())
    ]
    assert len(found) == 1, f"{len(found)} leases with {wanted}: {document['leases']}"
    return dict(found[0])


def events(document: Mapping[str, Any], name: str) -> list[dict[str, str]]:
    """Details of all events of this name."""
    return [event["detail"] for event in document["events"] if event["name"] == name]


def _lines(folder: Path) -> list[dict[str, Any]]:
    lines = []
    for stream, segments in list_streams(str(folder)).items():
        for number in sorted(segments):
            offset = 0
            while (cut := read_cut(str(folder), stream, number, offset)).end > offset:
                lines.extend(json.loads(line) for line in cut.lines)
                offset = cut.end
    return lines


def _values(line: Mapping[str, Any]) -> list[tuple[str, Any]]:
    if "logName" in line:
        return [(line["logName"], line["data"] if "data" in line else line["fileName"])]
    return list(line.get("data", {}).items())


def _is_dead(pid: int) -> bool:
    """Whether all threads of a process are gone, so that its sockets and locks are free; a zombie is dead."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([process], [], [], 0)[0])
    finally:
        os.close(process)
