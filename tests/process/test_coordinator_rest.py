"""What it costs when nothing happens, and what is left when much has happened (design section 8)."""

from __future__ import annotations

import os
import time
from pathlib import Path

from tests.process.harness import Node, wait_until

WATCHED_S = 5.0


def cpu_s(pid: int) -> float:
    """User and system time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mb(pid: int) -> float:
    """Resident size."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


def descriptors(pid: int) -> int:
    """Open descriptors."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def test_a_coordinator_at_rest_with_eight_leases_does_nearly_nothing(node: Node) -> None:
    """Section 8: at most 60 MB and half a percent of a core; no loop turns for nothing."""
    node.set(PLUTO_DIST_SYSTEM_METRICS_S="0")
    script = node.start("""
        import pluto_dist.client.handle
        run = pluto.init(run_id="calm", quiet=True)
        log(run, {"loss": 1.0}, 0)
        for number in range(7):
            if os.fork() == 0:
                side = pluto.attach("calm", label=f"side{number}")
                side.log({"x": 1.0}, 0)
                tell("up")
                hear()
                os._exit(0)
        tell("up")
        time.sleep(60)
    """)
    for _ in range(8):
        script.expect("up")
    wait_until(lambda: len(node.points("calm")) == 8, "all is delivered")
    pid = node.coordinator()
    wait_until(lambda: _is_calm(pid), "it has come to rest")
    before, mine = cpu_s(pid), cpu_s(script.pid)
    time.sleep(WATCHED_S)  # what is measured is time itself
    spent, trainer = cpu_s(pid) - before, cpu_s(script.pid) - mine
    print(f"coordinator {spent / WATCHED_S:.2%} of a core, trainer {trainer / WATCHED_S:.2%}, ", end="")
    print(f"{resident_mb(pid):.1f} MB resident, {descriptors(pid)} descriptors")
    assert spent < 0.25
    assert trainer < 0.1
    assert resident_mb(pid) < 60


def _is_calm(pid: int) -> bool:
    before = cpu_s(pid)
    time.sleep(0.3)
    return cpu_s(pid) - before <= 0.02


SWEEP = """
    def count(what):
        return len(os.listdir(f"/proc/{what}/fd"))
    def memory():
        return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / (1 << 20)
    def cycle(number):
        run = pluto.init(run_id=f"turn{number}", quiet=True)
        for step in range(20):
            run.log({"loss": float(step)}, step)
        run.finish()
    for number in range(20):
        cycle(number)
    tell("warm")
    hear()
    before, megabytes = count("self"), memory()
    for number in range(20, 220):
        cycle(number)
    tell_json("over", [before, count("self"), megabytes, memory(), threading.active_count()])
    hear()
"""


def test_two_hundred_runs_in_one_process_leak_nothing(node: Node) -> None:
    """A sweep: descriptors and memory of process and coordinator, and the spool, stay as they are."""
    node.set(PLUTO_DIST_SYSTEM_METRICS_S="0")
    script = node.start(SWEEP)
    script.expect("warm", within_s=30)
    pid = node.coordinator()
    spool = node.home / "spool" / "leases"
    wait_until(lambda: not list(spool.iterdir()), "the folders of ended leases are gone")
    ours = descriptors(pid)
    script.say()
    before, after, memory, memory_after, threads = script.expect_json("over", within_s=60)
    wait_until(lambda: not list(spool.iterdir()), "the folders of ended leases are gone")
    assert after <= before + 12  # those of the last Run, of which the thread may be about to end
    assert threads <= 5
    assert memory_after - memory < 5
    wait_until(lambda: descriptors(pid) <= ours + 12, "the coordinator's descriptors are back")
    documents = node.documents()
    assert len(documents) == 220
    assert {(found["status"], found["points"]) for found in documents} == {("COMPLETED", 20)}
    print(f"trainer {before} to {after} descriptors, {memory:.1f} to {memory_after:.1f} MB; ", end="")
    print(f"coordinator {ours} to {descriptors(pid)} descriptors, {resident_mb(pid):.1f} MB")
    script.say()
    assert script.wait() == 0


def test_a_long_training_stays_flat(node: Node) -> None:
    """G4: no growth with the number of records, in the trainer and in the coordinator."""
    script = node.start("""
        def memory():
            return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / (1 << 20)
        run = pluto.init(run_id="long", quiet=True)
        for step in range(20_000):
            run.log({"loss": float(step), "accuracy": 0.5}, step)
        run.flush()
        tell_json("warm", memory())
        hear()
        for step in range(20_000, 120_000):
            run.log({"loss": float(step), "accuracy": 0.5}, step)
        run.flush()
        tell_json("over", memory())
        hear()
    """)
    warm = script.expect_json("warm", within_s=30)
    pid = node.coordinator()
    before = resident_mb(pid)
    script.say()
    over = script.expect_json("over", within_s=60)
    assert over - warm < 3
    assert resident_mb(pid) - before < 15
    print(f"trainer {warm:.1f} to {over:.1f} MB, coordinator {before:.1f} to {resident_mb(pid):.1f} MB")
    script.say()
    assert script.wait() == 0
    assert node.ended("long")["points"] == 240_000
