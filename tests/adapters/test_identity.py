"""Identity (R2): which process, for all time."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from pluto_dist.core.values.ids import Identity
from pluto_dist.host.identity import boot_clock, boot_id, identity_of, own_identity, parse_stat

CHECKOUT = Path(__file__).parents[2]
PRINT = (
    "import msgspec; from pluto_dist.host.identity import own_identity;"
    "print(msgspec.json.encode(own_identity()).decode(), flush=True)"
)

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def identities(output: str) -> list[Identity]:
    return [msgspec.json.decode(line, type=Identity) for line in output.splitlines()]


def run(code: str, *prefix: str) -> list[Identity]:
    done = subprocess.run(
        [*prefix, sys.executable, "-c", code], check=True, cwd=CHECKOUT, capture_output=True, text=True
    )
    return identities(done.stdout)


def test_a_process_knows_itself_and_keeps_its_nonce():
    own = own_identity()
    assert own == own_identity()
    assert (own.pid, own.boot_id) == (os.getpid(), boot_id())
    assert own.nonce
    assert own.start > 0


def test_another_process_sees_the_same_without_the_nonce():
    seen = identity_of(os.getpid())
    assert seen is not None
    assert seen.nonce == ""
    assert seen.same_process(own_identity())


def test_exec_changes_the_nonce_but_not_the_process():
    """R2"""
    again = f"import os, sys; os.execv(sys.executable, [sys.executable, '-c', {PRINT!r}])"
    before, after = run(f"{PRINT}; {again}")
    assert before.same_process(after)
    assert before.nonce != after.nonce


def test_a_fork_shares_neither_process_nor_nonce():
    """R2"""
    parent, child = run(f"{PRINT}\nimport os\nif os.fork() == 0: {PRINT}\nelse: os.wait()")
    assert not parent.same_process(child)
    assert parent.nonce != child.nonce


def test_a_process_that_is_gone_or_a_zombie_has_no_identity():
    """R2"""
    process = subprocess.Popen([sys.executable, "-S", "-c", ""])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert identity_of(process.pid) is None
    process.wait()
    assert identity_of(process.pid) is None


@linux
@pytest.mark.parametrize("name", ["plain", "two words", ") Z 1 (", "a)b(c d) S 0 0"])
def test_a_name_with_spaces_and_parentheses_does_not_shift_the_fields(name: str):
    fields = ["S", *(str(number) for number in range(4, 53))]
    stat = parse_stat(f"123 ({name}) {' '.join(fields)}\n".encode())
    assert (stat.state, stat.threads, stat.start, stat.wait_status) == ("S", 20, 22, 52)


@linux
def test_a_renamed_process_is_still_found():
    rename = "import ctypes; ctypes.CDLL(None).prctl(15, b'a) R 7 (b', 0, 0, 0)"
    (found,) = run(f"{rename}; {PRINT}")
    assert 0 < found.start <= time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK")


def test_a_short_stat_is_refused():
    with pytest.raises(ValueError, match="52 were expected"):
        parse_stat(b"1 (x) S 1 2 3")


@linux
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root for a pid namespace")
def test_another_pid_namespace_is_another_identity():
    """R2"""
    (inside,) = run(PRINT, "unshare", "--pid", "--fork", "--mount-proc")
    assert inside.pid == 1
    assert inside.boot_id == boot_id()
    assert inside.pid_ns != own_identity().pid_ns


@linux
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root for a pid namespace")
def test_pids_are_not_looked_up_in_the_proc_of_another_namespace():
    """R2: without a /proc of its own, pid 1 there would be the machine's init."""
    code = f"{PRINT}; from pluto_dist.host.identity import identity_of; assert identity_of(1) is None"
    (inside,) = run(code, "unshare", "--pid", "--fork")
    assert inside.pid == 1


def test_the_boot_clock_advances():
    first = boot_clock()
    assert 0 < first <= boot_clock()
