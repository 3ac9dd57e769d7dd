"""Plays a schedule on a node of its own beside a server of its own, and lets everything settle."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from pluto_dist.core.rules.verdict import RESTART_WINDOW_S
from tests.chaos.actors import Actor, Job, Numbers, part_of
from tests.chaos.cast import LEDGERS, OVER
from tests.chaos.faults import Faults
from tests.chaos.schedule import Action, Who, make_schedule
from tests.pluto_server.client import ServerProcess
from tests.process.served import Served

TICK_S = 0.03
LOOK_S = 0.25
CROWD = 12  # processes at once; more would only wait for the two cores
EXIT_WAIT_S, SIGTERM_WAIT_S = 6.0, 3.0
LEAVES_WITHIN_S = 120.0  # after the faults: the longest work, an exit that waits, a loaded machine
RESTS_WITHIN_S = RESTART_WINDOW_S + 120.0  # a Run whose launcher is not known to be gone waits for a restart
IDLE_WITHIN_S = 120.0  # nobody wants anything; on a loaded machine that takes its time to show
KEY_EVERY_S = 5.0  # a coordinator that was started by a process that is gone has no key
SETTINGS = {
    "PLUTO_DIST_HEARTBEAT_S": "0.5",
    "PLUTO_DIST_IDLE_EXIT_S": "4",
    "PLUTO_DIST_SEGMENT_SIZE": "65536",
    "PLUTO_DIST_SPOOL_QUOTA": "1g",
    "PLUTO_DIST_SYSTEM_METRICS_S": "2",
    "PLUTO_DIST_CONSOLE": "wrap",
    "PLUTO_DIST_OPEN_WAIT_S": "3",
    "PLUTO_DIST_EXIT_WAIT_S": str(EXIT_WAIT_S),
    "PLUTO_DIST_SIGTERM_WAIT_S": str(SIGTERM_WAIT_S),
    "PLUTO_DIST_QUIET": "1",
}


class Play:
    """One play.

    Attributes:
        done: how often what was done.
        findings: what did not settle.
        actors, jobs, runs: everybody who came; ids of the Runs in order.
        told: what was done when, in epoch seconds, for a person who looks for a cause.
    """

    def __init__(self, seed: int, seconds: float, served: Served, server: ServerProcess) -> None:
        self.seed = seed
        self.served = served
        self.faults = Faults(served, server)
        self.done: Counter[str] = Counter()
        self.findings: list[str] = []
        self.actors: list[Actor] = []
        self.jobs: list[Job] = []
        self.runs: list[str] = []
        self.told: list[tuple[float, str]] = []
        self.ledgers = served.base / "ledgers"
        self.ledgers.mkdir()
        served.set(**SETTINGS, **{LEDGERS: str(self.ledgers)})
        served.server.seed_faults(seed)
        self._schedule = make_schedule(seed, seconds)
        self._seconds = seconds
        self._numbers = Numbers()
        self._looked_at = 0.0
        self._woke_at = 0.0

    def run(self) -> None:
        """The schedule, then peace."""
        begin = time.monotonic()
        for action in self._schedule:
            while time.monotonic() - begin < action.at:
                self._step()
            self.told.append((time.time(), f"{action.kind} {action.seconds:g} s {action.fault or ''}"))
            if self._do(action):
                self.done[action.kind] += 1
        while time.monotonic() - begin < self._seconds:
            self._step()
        self._settle()

    @property
    def everybody(self) -> list[Actor]:
        """Those who came alone, and all ranks."""
        return [*self.actors, *(actor for job in self.jobs for actor in job.actors)]

    # --- the play ---------------------------------------------------------------------------------

    def _step(self) -> None:
        now = time.time()
        for actor in self.everybody:
            if actor.alive:
                actor.thaw_if_due(now)
        for job in self.jobs:
            job.step()
        if now >= self._looked_at + LOOK_S:
            self._looked_at = now
            self.faults.step()
        time.sleep(TICK_S)

    def _do(self, action: Action) -> bool:  # one line for each action
        match action.kind:
            case "alone" | "job" | "side" | "resume":
                return self._come(action)
            case "kill" | "terminate" | "interrupt" | "freeze":
                return self._strike(action)
            case "kill_launcher":
                return self._kill_launcher(action)
            case "kill_coordinator":
                return self.faults.signal_coordinator(signal.SIGKILL)
            case "terminate_coordinator":
                return self.faults.signal_coordinator(signal.SIGTERM)
            case "freeze_coordinator":
                return self.faults.freeze_coordinator(action.seconds)
            case "freeze_server":
                return self.faults.freeze_server(action.seconds)
            case "fill_disk":
                return self.faults.fill_disk(action.seconds)
            case "server_fault" if self.faults.server_answers:
                self.served.server.add_fault(**action.fault)
                return True
            case "server_heals" if self.faults.server_answers:
                self.served.back()
                return True
        return False

    def _come(self, action: Action) -> bool:
        if sum(actor.alive for actor in self.everybody) + len(action.who) > CROWD:
            return False
        who = action.who[0]
        if action.kind == "job":
            self.runs.append(f"job{len(self.runs)}")
            self.jobs.append(Job(self.served, self._numbers, self.runs[-1], action.who, action.restarts))
        elif action.kind == "alone":
            self.runs.append(f"alone{len(self.runs)}")
            self._start(who, "init", self.runs[-1])
        else:
            run = self.runs[-1 - action.number % min(len(self.runs), 5)]
            self._start(who, "attach" if action.kind == "side" else "resume", run)
        return True

    def _start(self, who: Who, verb: str, run: str) -> Actor:
        writer = self._numbers.next()
        part = part_of(who, writer, verb, run, f"s{writer}")
        actor = Actor(part, self.served.start(part.program(), name=f"w{writer}"))
        self.actors.append(actor)
        return actor

    def _strike(self, action: Action) -> bool:
        living = [actor for actor in self.everybody if actor.alive]
        if not living:
            return False
        actor = living[action.number % len(living)]
        match action.kind:
            case "kill":
                actor.send(signal.SIGKILL)
            case "terminate":
                actor.send(signal.SIGTERM)
            case "interrupt":
                actor.send(signal.SIGINT)
            case _:
                actor.freeze(action.seconds)
        return True

    def _kill_launcher(self, action: Action) -> bool:
        running = [job for job in self.jobs if not job.over and job.launcher_died_at is None]
        if running:
            running[action.number % len(running)].kill_launcher()
        return bool(running)

    # --- peace ------------------------------------------------------------------------------------

    def _settle(self) -> None:
        (self.served.base / OVER).touch()
        self.faults.end()
        for actor in self.everybody:
            actor.thaw_if_due(float("inf"))
        self._everybody_leaves()
        self._finish_what_is_left_open()
        if not self._wait(self._at_rest, RESTS_WITHIN_S):
            self.findings.append(f"no rest within {RESTS_WITHIN_S:g} s: {self._unrest()}")
        if not self._wait(lambda: not self.served.started(), IDLE_WITHIN_S):
            self.findings.append("the coordinator does not leave although nothing is left to do")

    def _everybody_leaves(self) -> None:
        self._wait(self._all_gone, LEAVES_WITHIN_S)
        for actor in self.everybody:
            if actor.alive:
                stderr = actor.script.stderr[-600:]
                self.findings.append(f"{actor.part} does not end within {LEAVES_WITHIN_S:g} s (G5): {stderr}")
                actor.send(signal.SIGKILL)
        self._wait(self._all_gone, LEAVES_WITHIN_S)

    def _all_gone(self) -> bool:
        return not any(actor.alive for actor in self.everybody) and all(job.over for job in self.jobs)

    def _finish_what_is_left_open(self) -> None:
        """A Run whose owner has closed it waits for an hour for somebody who takes it up: here one comes."""
        who = Who(end="finish", seconds=0.1, pause_s=0.02, code=0, children=0)
        for _ in range(3):
            self._wait(self._nothing_moves, RESTART_WINDOW_S + 30.0)
            open_runs = {
                document["run_id"]
                for document in self.served.documents()
                if document["status"] == "RUNNING" and document["phase"] in ("detached", "running")
            }
            if not open_runs:
                return
            for run in sorted(open_runs):
                self.done["finish_detached"] += 1
                self._start(who, "resume", run)
            self._wait(self._all_gone, LEAVES_WITHIN_S)

    def _in_motion(self) -> list[str]:
        """Runs that will end, or have ended, by themselves and are not through."""
        return [
            document["run_id"]
            for document in self.served.documents()
            if document["phase"] in ("opening", "orphaned", "restarting", "finishing")
        ]

    def _wake_coordinator(self) -> None:
        """Starts one if there is none, and gives it the key."""
        with contextlib.suppress(AssertionError, subprocess.TimeoutExpired):
            if not self.served.started():
                self.served.cli("coordinator", "start")
            self.served.cli("sync", "--patience", "5")

    def _nothing_moves(self) -> bool:
        self._wake_if_due()
        return not self._in_motion()

    def _wake_if_due(self) -> None:
        """Whoever waits for Runs sees to it that somebody works on them: nobody else is left to do it."""
        if not self.served.started() or time.monotonic() > self._woke_at + KEY_EVERY_S:
            self._wake_coordinator()
            self._woke_at = time.monotonic()

    def _at_rest(self) -> bool:
        self._wake_if_due()
        return not self._running() and not list(self.served.home.glob("spool/leases/*"))

    def _running(self) -> list[str]:
        """Runs that have no end, here or at the server."""
        there = [run["externalId"] for run in self.served.server.runs() if run["status"] == "RUNNING"]
        here = [document["run_id"] for document in self.served.documents() if not document["reported"]]
        return sorted({*there, *here})

    def _unrest(self) -> str:
        running = self._running()
        left = [path.name for path in self.served.home.glob("spool/leases/*")]
        shown = [(each["run_id"], each["status"], each["phase"]) for each in self.served.documents()]
        return f"running {running}, in the spool {left}, documents {shown}"

    def _wait(self, until: object, within_s: float) -> bool:
        assert callable(until)
        deadline = time.monotonic() + within_s
        while not until():
            if time.monotonic() > deadline:
                return False
            self._step()
        return True


@contextlib.contextmanager
def played(seed: int, seconds: float) -> Iterator[Play]:
    """A play that is over, with its server still there; everything that it started ends with the block."""
    with ServerProcess() as server:
        served = Served(server)
        try:
            play = Play(seed, seconds, served, server)
            try:
                play.run()
                yield play
            finally:
                os.kill(server.pid, signal.SIGCONT)
                end_strays(play.ledgers)
                for actor in play.everybody:
                    actor.close()
        finally:
            served.close()


def end_strays(ledgers: Path) -> None:
    """Ends forked children whose parents are gone, each by its pid; our ledgers are in their environment."""
    ours = f"{LEDGERS}={ledgers}".encode()
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            with contextlib.suppress(OSError):
                if ours in (path / "environ").read_bytes().split(b"\0"):
                    os.kill(int(path.name), signal.SIGKILL)
