"""Eight processes, a server that fails in every way it can, coordinators that are killed again and again."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from tests.chaos.schedule import server_fault
from tests.process.harness import look, wait_until
from tests.process.served import Served

CHAOS_S = 15.0
KILL_EVERY_S = 3.0
TURN_S = 0.4
BODY = """
    run = {open}
    who = {who}
    print(f"{{who}} begins")
    tell("ready")
    step = 0
    while not os.path.exists("over"):
        log(run, {{"loss": 1000.0 * {number} + step, "acc": float(step)}}, step)
        run.log({{"note": f"{{who}} row {{step}}"}}, step=step)
        print(f"{{who}} line {{step}}")
        step += 1
        time.sleep(0.02)
    tell("steps", step)
    hear()
    {end}
"""


@contextmanager
def chaos(served: Served, dice: random.Random) -> Iterator[None]:
    """Knobs turn and coordinators die until the block ends; then everything is well again."""
    done = threading.Event()

    def turn() -> None:
        while not done.wait(TURN_S):
            if dice.random() < 0.3:
                served.back()
            served.server.add_fault(**server_fault(dice))

    def kill() -> None:
        while not done.wait(KILL_EVERY_S):
            served.kill_coordinator()

    threads = [threading.Thread(target=work) for work in (turn, kill)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        done.set()
        for thread in threads:
            thread.join()
        served.back()


def test_nothing_is_lost_and_nothing_is_said_twice_that_is_not_counted(served: Served) -> None:
    """G3, G6, G7, G12: every point once for readers, rows and lines complete, the status right."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    served.server.waive("6.3.2", name="*eval*")
    env = {
        "PLUTO_DIST_HEARTBEAT_S": "0.5",
        "PLUTO_DIST_SEGMENT_SIZE": "65536",
        "PLUTO_DIST_SYSTEM_METRICS_S": "2",
    }
    launcher = served.launcher(7)
    ranks = [
        launcher.rank(
            number,
            BODY.format(
                open='pluto.init(run_id="chaos")', who=f'"rank{number}"', number=number, end="run.finish()"
            ),
            env=env,
        )
        for number in range(7)
    ]
    for rank in ranks:
        rank.expect("ready")
    side = served.start(
        BODY.format(open='pluto.attach("chaos", label="eval")', who='"eval"', number=9, end="run.close()"),
        env=env | {"PLUTO_DIST_CONSOLE": "off"},
    )
    side.expect("ready")
    with chaos(served, random.Random(seed)):
        time.sleep(CHAOS_S)
        (served.base / "over").touch()
        steps = {f"rank{n}": int(rank.expect("steps")) for n, rank in enumerate(ranks)}
        side_steps = int(side.expect("steps"))
    for script in (side, *ranks):
        script.say()
    assert [script.wait() for script in (side, *ranks)] == [0] * 8

    run = served.ended_remotely("chaos")
    assert run["status"] == "COMPLETED"
    wait_until(lambda: not look(served.home, "spool/leases/*"), "the spool is empty")
    assert served.missing("chaos") == []
    series = served.series("chaos")
    assert {name: len(series[name]) for name in ("loss", "loss/eval")} == {
        "loss": steps["rank0"],
        "loss/eval": side_steps,
    }
    rows = Counter(row["data"] for row in served.server.data(run["id"]))
    every = {f"{who} row {n}" for who, count in {**steps, "eval": side_steps}.items() for n in range(count)}
    assert set(rows) == every
    lines = Counter(row["message"] for row in served.server.logs(run["id"]))
    assert {f"[{who}] {who} line {n}" for who, count in steps.items() for n in range(count)} <= set(lines)
    twice = sum(count - 1 for counts in (rows, lines) for count in counts.values())
    document = served.document("chaos")
    assert (document["rejected"], document["dropped"]) == (0, 0)
    print(f"{len(rows)} rows, {len(lines)} lines, {twice} twice, {document['repeats']} counted")
    assert twice <= document["repeats"], f"{twice} rows twice, {document['repeats']} counted"
    served.server.waive("6.3.4")  # the repeats that were just compared with their count
