"""Liveness (R2): a death is noticed at once and nothing else is taken for one."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from pluto_dist.core.values.ids import Identity
from pluto_dist.errors import PlacesError
from pluto_dist.host import liveness
from pluto_dist.host.identity import identity_of, own_identity
from pluto_dist.host.liveness import (
    ExitStatus,
    GoneWatch,
    LeaseLock,
    LeaseProbe,
    LockWatch,
    PidfdWatch,
    decode_wait_status,
    exit_status_of,
    oom_counter_of,
    oom_kills,
    watch,
)
from pluto_dist.host.places import Mount
from tests.patience import PATIENCE_S, wait_until

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(sys.platform != "linux", reason="pidfd and /proc"),
]
CHECKOUT = Path(__file__).parents[2]
NOBODY = 65534

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root for namespaces and other users")

HOLD = """
import sys, pathlib, msgspec
from pluto_dist.host.identity import own_identity
from pluto_dist.host.liveness import LeaseLock
lock = LeaseLock(pathlib.Path(sys.argv[1]))
print(msgspec.json.encode(own_identity()).decode(), flush=True)
"""
WAIT = "sys.stdin.read()\n"
SLEEP = "import time; time.sleep(60)"
EXIT_INFO = tuple(int(part) for part in os.uname().release.split(".")[:2]) >= (6, 15)


@contextlib.contextmanager
def holder(lease: Path, code: str = WAIT, *prefix: str) -> Iterator[tuple[subprocess.Popen[str], Identity]]:
    """A process that holds the lease file, and its identity."""
    with subprocess.Popen(
        [*prefix, sys.executable, "-c", HOLD + code, str(lease)],
        cwd=CHECKOUT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            yield process, msgspec.json.decode(process.stdout.readline(), type=Identity)
        finally:
            process.kill()


@contextlib.contextmanager
def sleeper(*arguments: str) -> Iterator[tuple[subprocess.Popen[bytes], Identity]]:
    with subprocess.Popen([sys.executable, "-S", "-c", SLEEP, *arguments]) as process:
        identity = identity_of(process.pid)
        assert identity is not None
        try:
            yield process, identity
        finally:
            process.kill()


@pytest.fixture
def lease(tmp_path: Path) -> Path:
    return tmp_path / "lease"


# --- pidfd


def test_a_sigkill_is_noticed_at_once_through_a_poller():
    """G7"""
    with sleeper() as (process, identity):
        observed = watch(identity)
        assert (observed.way, observed.check()) == ("pidfd", "alive")
        poller = select.epoll()
        poller.register(observed.fileno(), select.EPOLLIN)
        assert poller.poll(0) == []
        process.kill()
        assert poller.poll(PATIENCE_S)
        assert observed.check() == "dead"
        observed.close()
        poller.close()


def test_a_zombie_is_dead():
    """R2"""
    with sleeper() as (process, identity):
        observed = watch(identity)
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert observed.check() == "dead"
        again = watch(identity)
        assert (again.check(), again.exit_status()) == ("dead", ExitStatus(signal="SIGKILL"))
        observed.close()
        again.close()


def test_a_process_that_was_collected_before_the_watch_is_gone():
    with sleeper() as (process, identity):
        process.kill()
        process.wait()
        observed = watch(identity)
        assert isinstance(observed, GoneWatch)
        assert (observed.check(), observed.fileno(), observed.exit_status()) == ("dead", None, None)


def test_another_process_with_the_same_pid_is_not_the_one():
    """R2: pids are reused."""
    earlier = msgspec.structs.replace(own_identity(), start=own_identity().start - 1)
    assert isinstance(watch(earlier), GoneWatch)


def test_a_pid_that_became_a_thread_is_not_the_process():
    """R2"""
    code = "import threading, time; threading.Thread(target=time.sleep, args=(60,)).start()"
    with subprocess.Popen([sys.executable, "-S", "-c", code]) as process:
        tasks = Path(f"/proc/{process.pid}/task")
        wait_until(lambda: len(list(tasks.iterdir())) > 1)
        thread = max(int(task.name) for task in tasks.iterdir())
        assert isinstance(watch(msgspec.structs.replace(own_identity(), pid=thread)), GoneWatch)
        process.kill()


def test_a_stopped_process_is_alive():
    """R2: SIGSTOP is not death."""
    with sleeper() as (process, identity):
        observed = watch(identity)
        process.send_signal(signal.SIGSTOP)
        wait_until(lambda: " T " in Path(f"/proc/{process.pid}/stat").read_text())
        assert observed.check() == "alive"
        observed.close()


def test_a_first_thread_that_leaves_does_not_end_the_process():
    """R2: /proc shows the whole process as a zombie then."""
    code = "import ctypes, threading, time; threading.Thread(target=time.sleep, args=(60,)).start();"
    with subprocess.Popen([sys.executable, "-S", "-c", code + "ctypes.CDLL(None).syscall(60, 7)"]) as process:
        stat = Path(f"/proc/{process.pid}/stat")
        wait_until(lambda: " Z " in stat.read_text())
        identity = identity_of(process.pid)
        assert identity is not None
        observed = watch(identity)
        assert (observed.check(), observed.exit_status()) == ("alive", None)
        process.kill()
        wait_until(lambda: observed.check() == "dead")
        observed.close()


def test_exec_from_any_thread_is_no_death():
    """R2"""
    again = "os.execv(sys.executable, [sys.executable, '-S', '-c', 'import time; time.sleep(60)', 'renewed'])"
    code = (
        f"import os, sys, threading, time; threading.Thread(target=lambda: {again}).start(); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-S", "-c", code]) as process:
        identity = identity_of(process.pid)
        assert identity is not None
        observed = watch(identity)
        command = Path(f"/proc/{process.pid}/cmdline")
        wait_until(lambda: command.read_bytes().endswith(b"\0renewed\0"))
        assert observed.check() == "alive"
        after = identity_of(process.pid)
        assert after is not None
        assert after.same_process(identity)
        process.kill()
        wait_until(lambda: observed.check() == "dead")
        observed.close()


@pytest.mark.parametrize(
    "refusal", [PermissionError(1, "refused"), OSError(38, "not implemented"), OSError(24, "many")]
)
def test_a_refused_pidfd_means_the_lock(lease: Path, monkeypatch: pytest.MonkeyPatch, refusal: OSError):
    """R2: seccomp, old kernels, no descriptors left."""

    def refuse(pid: int) -> int:
        raise refusal

    monkeypatch.setattr(os, "pidfd_open", refuse)
    with holder(lease) as (process, identity):
        observed = watch(identity, lease)
        assert (observed.way, observed.fileno(), observed.check()) == ("lock", None, "alive")
        process.kill()
        wait_until(lambda: observed.check() == "dead")
        observed.close()


def test_a_process_that_proc_hides_is_watched_by_its_lock(lease: Path, monkeypatch: pytest.MonkeyPatch):
    """R2: with hidepid the start cannot be verified."""
    monkeypatch.setattr(liveness.procfs, "read_stat", lambda pid: None)
    with holder(lease) as (_, identity):
        observed = watch(identity, lease)
        assert (observed.way, observed.check()) == ("lock", "alive")
        observed.close()


def test_watches_give_their_descriptors_back(lease: Path):
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    with holder(lease) as (_, identity):
        for each in (watch(identity), LockWatch(identity, lease)):
            each.close()
            each.close()
        assert watch(msgspec.structs.replace(identity, start=1)).check() == "dead"
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_this_machine_can_use_pidfds():
    assert liveness.pidfd_trouble() is None


# --- how it ended


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("raise SystemExit(3)", ExitStatus(exit_code=3)),
        ("", ExitStatus(exit_code=0)),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", ExitStatus(signal="SIGKILL")),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", ExitStatus(signal="SIGTERM")),
    ],
)
def test_a_zombie_tells_how_it_ended(code: str, expected: ExitStatus):
    """R9"""
    with subprocess.Popen([sys.executable, "-S", "-c", f"input(); {code}"], stdin=subprocess.PIPE) as process:
        identity = identity_of(process.pid)
        assert identity is not None
        observed = watch(identity)
        assert observed.exit_status() is None
        process.stdin.write(b"\n")
        process.stdin.flush()
        wait_until(lambda: observed.check() == "dead")
        assert observed.exit_status() == expected
        assert exit_status_of(process.pid, identity.start) == expected
        assert exit_status_of(process.pid, identity.start + 1) is None
        observed.close()


@pytest.mark.skipif(not EXIT_INFO, reason="PIDFD_GET_INFO tells the exit code on kernels from 6.15")
def test_a_collected_process_still_tells_how_it_ended():
    """R9: a launcher that waits for its ranks is often quicker than we are."""
    with sleeper() as (process, identity):
        observed = watch(identity)
        process.kill()
        process.wait()
        assert observed.exit_status() == ExitStatus(signal="SIGKILL")
        assert exit_status_of(process.pid, identity.start) is None
        observed.close()


def test_without_that_ioctl_nothing_is_guessed(monkeypatch: pytest.MonkeyPatch):
    """R9"""

    def refuse(*arguments: object) -> int:
        raise OSError(25, "Inappropriate ioctl for device")

    with sleeper() as (process, identity):
        observed = watch(identity)
        process.kill()
        process.wait()
        monkeypatch.setattr("fcntl.ioctl", refuse)
        assert observed.exit_status() is None
        observed.close()


@needs_root
def test_the_zero_that_the_kernel_shows_to_strangers_is_not_believed():
    """R9: to another uid every zombie seems to have ended with 0."""
    with subprocess.Popen([sys.executable, "-S", "-c", "raise SystemExit(3)"]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        identity = watch_start(process.pid)
        code = (
            "import os; from pluto_dist.host.liveness import exit_status_of;"
            f"os.setgroups([]); os.setresgid(*[{NOBODY}] * 3); os.setresuid(*[{NOBODY}] * 3);"
            f"print(exit_status_of({process.pid}, {identity}))"
        )
        found = subprocess.run(
            [sys.executable, "-c", code], check=True, cwd=CHECKOUT, capture_output=True, text=True
        )
        assert found.stdout.strip() == "None"
        assert exit_status_of(process.pid, identity) == ExitStatus(exit_code=3)


def watch_start(pid: int) -> int:
    stat = liveness.procfs.read_stat(pid)
    assert stat is not None
    return stat.start


def test_wait_statuses_are_decoded():
    assert decode_wait_status(0x8B) == ExitStatus(signal="SIGSEGV", core_dumped=True)
    assert decode_wait_status(33) == ExitStatus(signal="SIG33")
    assert decode_wait_status(255 << 8) == ExitStatus(exit_code=255)


# --- the lock


def test_a_lock_is_seen_and_falls_at_sigkill(lease: Path):
    """R2"""
    with holder(lease) as (process, _):
        probe = LeaseProbe(lease)
        assert probe.state() == "held"
        process.kill()
        wait_until(lambda: probe.state() == "free")
        probe.close()


def test_a_probe_takes_nothing(lease: Path):
    """R2: two probes and a later holder do not disturb each other."""
    with holder(lease) as (process, _):
        probes = [LeaseProbe(lease), LeaseProbe(lease)]
        assert [probe.state() for probe in probes] == ["held", "held"]
        process.kill()
        process.wait()
        assert [probe.state() for probe in probes] == ["free", "free"]
        with holder(lease):
            assert [probe.state() for probe in probes] == ["held", "held"]
        for probe in probes:
            probe.close()


def test_a_forked_child_does_not_keep_the_lock(lease: Path):
    """R2"""
    code = "import os, time\nif os.fork() == 0: time.sleep(60)\nprint('forked', flush=True)\n" + WAIT
    with holder(lease, code) as (process, identity):
        assert process.stdout.readline() == "forked\n"
        (child,) = Path(f"/proc/{identity.pid}/task/{identity.pid}/children").read_text().split()
        probe = LeaseProbe(lease)
        assert probe.state() == "held"
        process.kill()
        wait_until(lambda: probe.state() == "free")
        os.kill(int(child), signal.SIGKILL)
        probe.close()


def test_a_forked_child_that_releases_does_not_take_the_lock_from_its_parent(lease: Path):
    """R2"""
    code = (
        "import os\n"
        "if os.fork() == 0: lock.release(); os._exit(0)\n"
        "os.wait(); print('done', flush=True)\n" + WAIT
    )
    with holder(lease, code) as (process, _):
        assert process.stdout.readline() == "done\n"
        probe = LeaseProbe(lease)
        assert probe.state() == "held"
        probe.close()


def test_exec_drops_the_lock(lease: Path):
    """R2: the new program is a new identity and takes a lease of its own."""
    code = f"import os; os.execv(sys.executable, [sys.executable, '-S', '-c', {SLEEP!r}])"
    with holder(lease, code) as (process, identity):
        probe = LeaseProbe(lease)
        wait_until(lambda: probe.state() == "free")
        assert process.poll() is None
        assert identity_of(identity.pid) is not None
        probe.close()


def test_a_lease_file_is_opened_once_per_process(lease: Path):
    """R2: closing a second descriptor would drop the lock."""
    lock = LeaseLock(lease)
    with pytest.raises(RuntimeError, match="opened once"):
        LeaseLock(lease.parent / "." / lease.name)
    lock.release()
    lock.release()
    LeaseLock(lease).release()


def test_two_processes_cannot_have_one_lease(lease: Path):
    with holder(lease):
        for _ in range(2):
            with pytest.raises(PlacesError, match="locked by another process"):
                LeaseLock(lease)


def test_a_release_closes_no_foreign_file(lease: Path):
    """Daemonising code closes all descriptors, and opens others under their numbers."""
    lock = LeaseLock(lease)
    os.close(lock._descriptor)
    foreign = os.open(os.devnull, os.O_RDONLY)
    if foreign != lock._descriptor:
        os.dup2(foreign, lock._descriptor)
    lock.release()
    os.close(lock._descriptor)


def test_a_released_lock_is_free(lease: Path):
    code = "sys.stdin.readline(); lock.release(); print('released', flush=True)\n" + WAIT
    with holder(lease, code) as (process, _):
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "released\n"
        probe = LeaseProbe(lease)
        assert probe.state() == "free"
        probe.close()


# --- other namespaces and boots


@needs_root
@pytest.mark.parametrize("flags", [("--pid", "--fork", "--mount-proc"), ("--pid", "--fork")])
def test_a_process_of_another_pid_namespace_is_watched_by_its_lock(lease: Path, flags: tuple[str, ...]):
    """R2"""
    with holder(lease, WAIT, "unshare", "--kill-child", *flags) as (process, identity):
        assert identity.pid == 1
        observed = watch(identity, lease)
        assert (observed.way, observed.check(), observed.exit_status()) == ("lock", "alive", None)
        process.kill()
        wait_until(lambda: observed.check() == "dead")
        observed.close()


@needs_root
def test_the_lock_is_seen_from_inside_another_namespace(lease: Path):
    """R2"""
    code = (
        "import sys, pathlib; from pluto_dist.host.liveness import LeaseProbe;"
        "print(LeaseProbe(pathlib.Path(sys.argv[1])).state())"
    )
    inside = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", code, str(lease)]
    with holder(lease):
        found = subprocess.run(inside, check=True, cwd=CHECKOUT, capture_output=True, text=True)
        assert found.stdout.strip() == "held"
    found = subprocess.run(inside, check=True, cwd=CHECKOUT, capture_output=True, text=True)
    assert found.stdout.strip() == "free"


@needs_root
def test_with_the_proc_of_another_namespace_nobody_is_declared_dead():
    """R2: pid 1 there is another process, with another start."""
    code = (
        "from pluto_dist.host.identity import own_identity; from pluto_dist.host.liveness import watch;"
        "print(watch(own_identity()).check())"
    )
    inside = ["unshare", "--pid", "--fork", sys.executable, "-c", code]
    found = subprocess.run(inside, check=True, cwd=CHECKOUT, capture_output=True, text=True)
    assert found.stdout.strip() == "unknown"


def test_a_foreign_boot_is_unknown_and_not_dead(lease: Path):
    """R2"""
    with holder(lease) as (process, identity):
        foreign = msgspec.structs.replace(identity, boot_id="another")
        observed = watch(foreign, lease)
        assert (observed.way, observed.check()) == ("lock", "alive")
        process.kill()
        process.wait()
        assert observed.check() == "unknown"
        observed.close()


def test_without_a_lease_file_nothing_is_claimed(lease: Path):
    """R2"""
    elsewhere = msgspec.structs.replace(own_identity(), pid_ns=1)
    assert (watch(elsewhere).way, watch(elsewhere).check()) == ("none", "unknown")
    assert watch(elsewhere, lease).check() == "unknown"


def test_a_planted_lease_file_is_refused(lease: Path, tmp_path: Path):
    """G11"""
    (tmp_path / "target").write_text("")
    lease.symlink_to(tmp_path / "target")
    for attempt in (LeaseLock, LeaseProbe):
        with pytest.raises(OSError, match="symbolic"):
            attempt(lease)


def test_pidfd_watch_is_what_this_process_gets_of_itself():
    observed = watch(own_identity())
    assert isinstance(observed, PidfdWatch)
    assert observed.check() == "alive"
    observed.close()


# --- the OOM killer


def test_the_own_cgroup_has_a_count_or_none_is_told():
    counter = oom_counter_of()
    count = oom_kills(counter)
    assert (count is None) == (counter is None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("low 0\nhigh 0\nmax 3\noom 2\noom_kill 1\noom_group_kill 0\n", 1),
        ("oom_kill_disable 0\nunder_oom 0\noom_kill 4\n", 4),
        ("low 0\n", None),
    ],
)
def test_both_versions_of_the_counter_are_read(tmp_path: Path, text: str, expected: int | None):
    """R9"""
    counter = tmp_path / "memory.events"
    counter.write_text(text)
    assert oom_kills(counter) == expected
    assert oom_kills(tmp_path / "removed") is None


@pytest.mark.parametrize(
    ("lines", "root", "found"),
    [
        ("0::/job/step\n", "/", "job/step/memory.events"),
        ("0::/docker/abc\n", "/docker/abc", "memory.events"),
        ("4:memory:/job\n0::/\n", "/", "v1/job/memory.oom_control"),
    ],
)
def test_the_counter_of_a_process_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: str, root: str, found: str
):
    """R9: also where a container has mounted only its own part."""
    for file in ("job/step/memory.events", "memory.events", "v1/job/memory.oom_control"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("oom_kill 0\n")
    (tmp_path / "proc" / "7").mkdir(parents=True)
    (tmp_path / "proc" / "7" / "cgroup").write_text(lines)
    monkeypatch.setattr("pluto_dist.host.liveness.PROC", tmp_path / "proc")
    among = (
        Mount(str(tmp_path), "cgroup2", root),
        Mount(str(tmp_path / "v1"), "cgroup", root, "rw,memory"),
    )
    assert oom_counter_of(7, among) == tmp_path / found


def test_a_cgroup_outside_of_the_own_view_is_not_mistaken_for_one_inside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """R9: a process of another cgroup namespace has a path with dots."""
    for folder in ("view", "outside", "proc/7"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "outside" / "memory.events").write_text("oom_kill 0\n")
    (tmp_path / "proc" / "7" / "cgroup").write_text("0::/../outside\n")
    monkeypatch.setattr("pluto_dist.host.liveness.PROC", tmp_path / "proc")
    assert oom_counter_of(7, [Mount(str(tmp_path / "view"), "cgroup2")]) is None
