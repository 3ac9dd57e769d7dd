"""Launch (R3): the coordinator is nobody's child, in clean surroundings, running this very package."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pluto_dist.coordinator.main import adopt_lock, file_id, take_lock
from pluto_dist.errors import CoordinatorUnavailableError, PlacesError
from pluto_dist.host import boot, launch
from pluto_dist.host.launch import (
    CoordinatorOptions,
    claim_start,
    command,
    end_start,
    environment,
    start_detached,
    widen_affinity,
)
from pluto_dist.host.places import Mount, Places, find_places
from tests.patience import wait_until

pytestmark = [pytest.mark.process, pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")]
CHECKOUT = Path(__file__).parents[2]

# Writes what it sees, under its own pid, and stays until it is killed.
STAND_IN = """
import json, os, signal, sys, threading, time
def target(fd):
    try: return os.readlink("/proc/self/fd/" + fd)
    except FileNotFoundError: return "/proc/ that was listed"
seen = {
    "pid": os.getpid(),
    "sid": os.getsid(0),
    "cwd": os.getcwd(),
    "umask": os.umask(0o077),
    "argv": sys.argv,
    "path": sys.path,
    "env": dict(os.environ),
    "fds": {fd: target(fd) for fd in os.listdir("/proc/self/fd")},
    "blocked": [int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, ())],
    "ignored": [int(each) for each in signal.valid_signals() if signal.getsignal(each) is signal.SIG_IGN],
    "package": getattr(sys.modules.get("pluto_dist"), "__file__", None),
}
print("hello from the stand-in", flush=True)
report = os.environ["PLUTO_DIST_REPORT"]
with open(report + ".new", "w") as out: json.dump(seen, out)
os.rename(report + ".new", report)
time.sleep(60)
"""


class Started:
    """Waits for the stand-in's report and ends it afterwards."""

    def __init__(self, folder: Path) -> None:
        self.report = folder / "report.json"
        self.log = folder / "coordinator.log"
        self.env = {"PLUTO_DIST_REPORT": str(self.report), "PATH": os.environ["PATH"]}
        self._pids: list[int] = []

    def seen(self) -> dict:
        wait_until(self.report.exists, "the report")
        found = json.loads(self.report.read_text())
        self._pids.append(found["pid"])
        return found

    def stop(self) -> None:
        for pid in self._pids:
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Started]:
    found = Started(tmp_path)
    yield found
    found.stop()


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return find_places(tmp_path / "home", among=[Mount("/", "ext4")])


def stand_in() -> list[str]:
    return [sys.executable, "-S", "-P", "-c", STAND_IN]


def test_it_is_nobodys_child_in_its_own_session_at_the_root(started: Started):
    """R3"""
    start_detached(stand_in(), started.log, started.env)
    seen = started.seen()
    parent = Path(f"/proc/{seen['pid']}/stat").read_text().rpartition(")")[2].split()[1]
    assert int(parent) != os.getpid()
    assert seen["sid"] not in {os.getsid(0), seen["pid"]}  # not the leader: it can get no terminal
    assert seen["cwd"] == "/"
    assert seen["umask"] == 0o077
    with pytest.raises(ChildProcessError):
        os.waitpid(seen["pid"], os.WNOHANG)


def test_it_inherits_no_descriptor_and_writes_into_the_private_log(started: Started):
    """R3, G11"""
    read, write = os.pipe()
    os.set_inheritable(write, True)
    start_detached(stand_in(), started.log, started.env)
    os.close(write)
    assert os.read(read, 1) == b""  # end of file: nobody else has the other end
    os.close(read)
    fds = {fd: path for fd, path in started.seen()["fds"].items() if not path.startswith("/proc/")}
    assert fds == {"0": "/dev/null", "1": str(started.log), "2": str(started.log)}
    assert started.log.read_text() == "hello from the stand-in\n"
    assert started.log.stat().st_mode & 0o777 == 0o600


def test_it_starts_with_clean_signals(started: Started):
    """R3: a trainer's thread may have blocked or ignored SIGTERM."""
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    try:
        start_detached(stand_in(), started.log, started.env)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])
        signal.signal(signal.SIGTERM, before)
    seen = started.seen()
    assert seen["blocked"] == []
    assert signal.SIGTERM not in seen["ignored"]


def test_the_environment_has_no_keys_ranks_or_preloads():
    """G11, R3"""
    kept = {"PATH": "/bin", "HOME": "/root", "LC_ALL": "C", "https_proxy": "p", "PLUTO_DIST_IDLE_EXIT_S": "5"}
    left = dict.fromkeys(
        """
        PLUTO_API_KEY MLOP_API_TOKEN WANDB_API_KEY HF_TOKEN AWS_SECRET_ACCESS_KEY CUDA_VISIBLE_DEVICES
        LD_PRELOAD RANK LOCAL_RANK WORLD_SIZE MASTER_ADDR TORCHELASTIC_RUN_ID SLURM_PROCID PYTHONPATH TMPDIR
        """.split(),  # noqa: SIM905
        "x",
    )
    assert environment(kept | left) == kept


def test_many_threads_may_start_and_fork_at_once(started: Started):
    """G4: nothing of the trainer is touched, its own children stay its own."""
    own = [sys.executable, "-S", "-c", "raise SystemExit(7)"]
    codes: list[int] = []
    threads = [
        threading.Thread(target=lambda: codes.append(subprocess.run(own, check=False).returncode))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    start_detached(stand_in(), started.log, started.env)
    for thread in threads:
        thread.join()
    assert codes == [7] * 4
    started.seen()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root for a pid namespace")
def test_a_trainer_that_is_pid_1_is_not_confused(started: Started):
    """R3: the orphan becomes its child there, and `subprocess` does not mind."""
    trainer = (
        "import os, pathlib, subprocess, sys\n"
        "from pluto_dist.host.launch import start_detached\n"
        "program = [sys.executable, '-S', '-c', 'pass']\n"
        f"start_detached(program, pathlib.Path({str(started.log)!r}), dict(os.environ))\n"
        "done = subprocess.run([sys.executable, '-S', '-c', 'raise SystemExit(7)'])\n"
        "print(os.getpid(), done.returncode)\n"
    )
    found = subprocess.run(
        ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-W", "error", "-c", trainer],
        check=True,
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
    )
    assert found.stdout.split() == ["1", "7"], found.stderr


def test_a_program_that_is_missing_is_a_typed_error(started: Started):
    with pytest.raises(CoordinatorUnavailableError, match="No such file") as caught:
        start_detached(["/nowhere/python"], started.log, started.env)
    assert str(started.log) in caught.value.message
    with pytest.raises(CoordinatorUnavailableError, match="embedded"):
        start_detached([""], started.log, started.env)


def test_a_log_that_cannot_be_opened_is_a_typed_error(started: Started, tmp_path: Path):
    """G11: a planted link is not written through."""
    started.log.symlink_to(tmp_path / "victim")
    with pytest.raises(CoordinatorUnavailableError, match="cannot be opened"):
        start_detached(stand_in(), started.log, started.env)


def test_a_large_log_is_turned_over(started: Started):
    started.log.write_bytes(b"x" * (launch.LOG_LIMIT + 1))
    start_detached(stand_in(), started.log, started.env)
    started.seen()
    assert started.log.stat().st_size < 100
    assert started.log.with_name("coordinator.log.1").stat().st_size == launch.LOG_LIMIT + 1


# --- which program


def test_the_command_shows_no_secret_and_can_be_read_back(places: Places):
    """G11"""
    options = CoordinatorOptions(places.runtime, places.spool, 2.5)
    line = command(options, search_path=["", "relative"])
    assert line == [sys.executable, "-S", "-P", boot.__file__, *options.arguments()]
    assert CoordinatorOptions.parse(options.arguments()) == options
    for wrong in (["--runtime=/x"], [*options.arguments(), "--other=1"], ["junk"]):
        with pytest.raises(ValueError, match=r"missing|unknown|sequence"):
            CoordinatorOptions.parse(wrong)


def test_a_plain_checkout_runs_itself_and_is_not_shadowed(started: Started, tmp_path: Path):
    """R3: beside the package lie modules that are named like the standard library's."""
    checkout = tmp_path / "checkout"
    for folder in ("host", "coordinator"):
        (checkout / "pluto_dist" / folder).mkdir(parents=True)
    for name in ("__init__.py", "host/__init__.py", "coordinator/__init__.py"):
        (checkout / "pluto_dist" / name).write_text("")
    shutil.copy(boot.__file__, checkout / "pluto_dist" / "host" / "boot.py")
    (checkout / "pluto_dist" / "coordinator" / "__main__.py").write_text(STAND_IN)
    (tmp_path / "other" / "pluto_dist").mkdir(parents=True)
    (tmp_path / "other" / "pluto_dist" / "__init__.py").write_text("raise ImportError('another version')")
    for name in ("json", "threading", "signal"):
        (checkout / f"{name}.py").write_text("raise ImportError('shadowed')")
    line = [
        sys.executable,
        "-P",
        str(checkout / "pluto_dist" / "host" / "boot.py"),
        f"{boot.OPTION}{tmp_path / 'other'}",
        f"{boot.OPTION}{checkout}",
        "--runtime=/r",
        "--idle-exit-s=1",
    ]
    start_detached(line, started.log, started.env)
    seen = started.seen()
    assert seen["package"] == str(checkout / "pluto_dist" / "__init__.py")
    assert seen["argv"][1:] == ["--runtime=/r", "--idle-exit-s=1"]
    assert seen["path"][-1] == str(checkout)


def test_launch_runs_this_package_with_these_places(
    started: Started, places: Places, monkeypatch: pytest.MonkeyPatch
):
    """R3"""
    monkeypatch.setattr(launch.boot, "__file__", str(started.report.with_name("boot.py")))
    started.report.with_name("boot.py").write_text(STAND_IN)
    launch.launch(places, {**started.env, "PLUTO_API_KEY": "secret", "RANK": "3"}, idle_exit_s=9)
    seen = started.seen()
    assert "secret" not in json.dumps(seen["env"])
    assert f"--runtime={places.runtime}" in seen["argv"]
    assert f"--spool={places.spool}" in seen["argv"]
    assert "--idle-exit-s=9" in seen["argv"]
    assert places.log.exists()


def test_only_folders_the_interpreter_lacks_are_handed_on(tmp_path: Path):
    vendored = tmp_path / "vendored"
    vendored.mkdir()
    usual = [str(Path(os.__file__).parent), "", ".", "/does/not/exist"]
    assert launch.own_import_path([*usual, str(vendored), str(vendored)]) == [str(vendored)]


# --- one start for many ranks


def test_one_of_many_ranks_starts_the_coordinator(places: Places):
    """R3"""
    assert [claim_start(places) for _ in range(3)] == [True, False, False]
    end_start(places)
    end_start(places)
    assert claim_start(places)


@pytest.mark.parametrize("age_s", [launch.TICKET_LIFE_S + 1, -100.0])
def test_a_start_that_came_to_nothing_does_not_stop_the_next(places: Places, age_s: float):
    """G12; also when the clock was set back meanwhile."""
    assert claim_start(places)
    then = time.time() - age_s
    os.utime(places.runtime / "starting", (then, then))
    assert claim_start(places)
    assert not claim_start(places)


# --- the coordinator's lock


def test_one_coordinator_holds_the_lock_and_its_death_frees_it(places: Places):
    """R3"""
    code = (
        "import pathlib, sys; from pluto_dist.coordinator.main import take_lock;"
        "held = take_lock(pathlib.Path(sys.argv[1]));"
        "print(held is not None, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(places.lock)],
        cwd=CHECKOUT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout.readline() == "True\n"
        assert take_lock(places.lock) is None
        other.kill()
        other.wait()
    mine = take_lock(places.lock)
    assert mine is not None
    assert places.lock.stat().st_mode & 0o777 == 0o600
    mine.release()


def test_the_lock_file_stays_so_that_nobody_locks_a_deleted_one(places: Places):
    """R3"""
    first = take_lock(places.lock)
    assert first is not None
    before = file_id(places.lock)
    first.release()
    second = take_lock(places.lock)
    assert second is not None
    assert file_id(places.lock) == before
    second.release()


@pytest.mark.parametrize("damage", ["deleted", "replaced", "folder gone"])
def test_the_holder_notices_that_its_lock_is_worth_nothing(places: Places, damage: str):
    """R3"""
    lock = take_lock(places.lock)
    assert lock is not None
    assert lock.is_intact()
    if damage == "folder gone":
        shutil.rmtree(places.runtime)
    else:
        places.lock.rename(places.lock.with_name("aside"))
    if damage == "replaced":
        places.lock.write_text("")
    assert not lock.is_intact()
    lock.release()


def test_a_filesystem_without_flock_is_refused(places: Places, monkeypatch: pytest.MonkeyPatch):
    """R13: a lock by existence would outlive a SIGKILL."""

    def no_flock(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_flock)
    with pytest.raises(PlacesError, match="no flock"):
        take_lock(places.lock)


def test_a_lock_that_was_deleted_while_it_was_taken_is_none(places: Places):
    """R3: the next one would lock another file."""
    descriptor = os.open(places.lock, os.O_RDWR | os.O_CREAT)
    places.lock.unlink()
    assert adopt_lock(places.lock, descriptor) is None


# --- a coordinator is born with its lock


def spawn(places: Places, started: Started, program: str = STAND_IN) -> bool:
    """Starts a stand-in with the lock."""
    places.lock.touch(mode=0o600)
    line = [sys.executable, "-S", "-P", "-c", program]
    return start_detached(line, started.log, started.env, lock=places.lock)


def test_while_a_coordinator_starts_nobody_starts_a_second_one(places: Places, started: Started):
    """R3: it has the lock from its first instruction, however long it takes until it serves."""
    assert spawn(places, started)
    assert not spawn(places, started)
    assert take_lock(places.lock) is None
    pid = started.seen()["pid"]
    os.kill(pid, signal.SIGSTOP)
    assert not spawn(places, started)
    assert started.log.read_text().count("hello") == 1


def test_a_coordinator_that_dies_in_its_start_is_followed_at_once(places: Places, started: Started):
    """R3, G12: no ticket has to grow old."""
    assert spawn(places, started, "import os; os._exit(1)")
    wait_until(lambda: spawn(places, started))
    assert started.seen()["pid"]


def test_what_it_is_born_with_is_the_lock_and_no_child_of_its_own_has_it(places: Places, started: Started):
    """R3: else a helper that outlives it would keep every other coordinator from starting."""
    adopts = (
        "import subprocess, sys; sys.path.insert(0, %r); from pathlib import Path\n"
        "from pluto_dist.coordinator.main import adopt_lock\n"
        "lock = adopt_lock(Path(%r), int(sys.argv[-1].partition('=')[2]))\n"
        "helper = subprocess.Popen([sys.executable, '-c', %r], close_fds=False)\n"
        "print('adopted', lock is not None and lock.is_intact(), helper.pid, flush=True)\n"
    )
    code = adopts % (str(CHECKOUT), str(places.lock), "import time; time.sleep(60)")
    places.lock.touch(mode=0o600)
    assert start_detached([sys.executable, "-c", code], started.log, started.env, lock=places.lock)
    wait_until(lambda: "adopted" in started.log.read_text())
    _, intact, helper = started.log.read_text().split()
    try:
        assert intact == "True"
        wait_until(lambda: take_lock(places.lock) is not None)  # it has ended, and its helper has not
        assert Path(f"/proc/{helper}").exists()
    finally:
        os.kill(int(helper), signal.SIGKILL)


def test_a_forked_child_of_a_client_never_has_the_lock(places: Places, started: Started):
    """R3: a trainer forks when it likes, also while it starts a coordinator."""
    stop, children = threading.Event(), []

    def fork_and_fork() -> None:
        while not stop.wait(0.002) and len(children) < 40:
            child = os.fork()
            if child == 0:
                signal.pause()
            children.append(child)

    forking = threading.Thread(target=fork_and_fork)
    places.lock.touch(mode=0o600)
    forking.start()
    try:
        assert spawn(places, started, "import os; os._exit(0)")
    finally:
        stop.set()
        forking.join()
    try:
        wait_until(lambda: take_lock(places.lock) is not None)
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


# --- CPUs


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs two CPUs to be pinned to one")
def test_a_pinned_coordinator_may_use_all_its_cpus_again():
    """R3"""
    code = (
        "import os; from pluto_dist.host.launch import widen_affinity;"
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); print(widen_affinity())"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], check=True, cwd=CHECKOUT, capture_output=True, text=True
    )
    assert int(found.stdout) == len(os.sched_getaffinity(0))


def test_a_kernel_that_refuses_leaves_the_affinity(monkeypatch: pytest.MonkeyPatch):
    def refuse(*arguments: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "sched_setaffinity", refuse)
    assert widen_affinity() == len(os.sched_getaffinity(0))
