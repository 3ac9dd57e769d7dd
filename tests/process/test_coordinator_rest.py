"""What it costs when nothing happens, and what is left when much has happened."""

from __future__ import annotations

import os
import time
from pathlib import Path

from tests.process.harness import Node, wait_until

WATCHED_S = 2.0


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
    """At most 60 MB; no loop turns for nothing. How much of a core that takes the benchmarks measure."""
    node.set(PLUTO_DIST_SYSTEM_METRICS_S="0")
    script = node.start("""
        import pluto_dist.client.run
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
    wait_until(lambda: turns_a_second(pid)[0] < 60, "it has come to rest")
    before, mine = cpu_s(pid), cpu_s(script.pid)
    ours, theirs = turns_a_second(pid, script.pid)
    spent, trainer = cpu_s(pid) - before, cpu_s(script.pid) - mine
    print(f"coordinator {spent / WATCHED_S:.2%} of a core, trainer {trainer / WATCHED_S:.2%}, ", end="")
    print(f"{ours:.0f} and {theirs:.0f} turns a second, ", end="")
    print(f"{resident_mb(pid):.1f} MB resident, {descriptors(pid)} descriptors")
    assert ours < 60
    assert theirs < 30
    assert resident_mb(pid) < 60


def turns_a_second(*pids: int) -> list[float]:
    """How often processes began to wait for something: less often on a slow machine, never more often."""
    before, began = [waits(pid) for pid in pids], time.monotonic()
    time.sleep(WATCHED_S)  # what is looked at is time itself
    return [(waits(pid) - was) / (time.monotonic() - began) for pid, was in zip(pids, before, strict=True)]


def waits(pid: int) -> int:
    """Voluntary context switches of all threads of a process."""
    return sum(
        int(line.split()[1])
        for task in Path(f"/proc/{pid}/task").iterdir()
        for line in (task / "status").read_text().splitlines()
        if line.startswith("voluntary_ctxt_switches")
    )


SWEEP = """
    from tests.patience import wait_until
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
    # The thread of the last Run may be about to end; on a busy machine those of a few.
    wait_until(lambda: count("self") <= before + 12 and threading.active_count() <= 5, "all is given back")
    tell_json("over", [before, count("self"), megabytes, memory()])
    hear()
"""


def test_two_hundred_runs_in_one_process_leak_nothing(node: Node) -> None:
    """A sweep: descriptors and memory of process and coordinator, and the spool, stay as they are."""
    node.set(PLUTO_DIST_SYSTEM_METRICS_S="0")
    script = node.start(SWEEP)
    script.expect("warm")
    pid = node.coordinator()
    spool = node.home / "spool" / "leases"
    wait_until(lambda: not list(spool.iterdir()), "the folders of ended leases are gone")
    ours = descriptors(pid)
    script.say()
    before, after, memory, memory_after = script.expect_json("over")
    wait_until(lambda: not list(spool.iterdir()), "the folders of ended leases are gone")
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
    warm = script.expect_json("warm")
    pid = node.coordinator()
    before = resident_mb(pid)
    script.say()
    over = script.expect_json("over")
    assert over - warm < 3
    assert resident_mb(pid) - before < 15
    print(f"trainer {warm:.1f} to {over:.1f} MB, coordinator {before:.1f} to {resident_mb(pid):.1f} MB")
    script.say()
    assert script.wait() == 0
    assert node.ended("long")["points"] == 240_000
