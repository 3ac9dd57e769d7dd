"""Whatever happens in whatever order: the guarantees hold after every event, and in the end all is told.

The machine plays jobs with ranks, sides, people, a server with moods and a coordinator that dies between any
two effects. `Invariants` look after each event; `teardown` lets the world come to rest and looks at the sum:
every Run is ended and reported, every record has arrived, every folder is gone, the coordinator ends.

`PLUTO_DIST_EXAMPLES=2000` plays longer.
"""

from __future__ import annotations

import os
from collections import defaultdict

import msgspec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, precondition, rule

from pluto_dist.core.values.backend import Retry, Unavailable, Unknown
from pluto_dist.core.values.records import Lease, Run
from tests.core.processes import LOCAL, PLUTO, Launch, Process
from tests.core.world import World

EXAMPLES = int(os.environ.get("PLUTO_DIST_EXAMPLES", "40"))
NAMES = st.sampled_from(["loss", "acc", "loss/rank1", "eval"])
IDS = st.sampled_from([None, "x", "y"])


class Machine(RuleBasedStateMachine):
    """See the module's docstring."""

    processes = Bundle("processes")
    launches = Bundle("launches")

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.counter = 0
        self.tags: dict[str, set[str]] = defaultdict(set)
        self.config: dict[str, dict[str, int]] = defaultdict(dict)
        self.jobs: list[Launch] = []

    # --- claims -----------------------------------------------------------------------------------

    @rule(target=launches, ranks=st.integers(1, 3), restarts=st.integers(0, 1))
    def launch(self, ranks: int, restarts: int) -> Launch:
        self.counter += 1
        job = self.world.launch(f"job{self.counter}", ranks, restarts)
        job.start()
        self.jobs.append(job)
        return job

    @rule(target=processes, job=launches, number=st.integers(0, 2), env=IDS)
    def rank(self, job: Launch, number: int, env: str | None) -> Process:
        process = job.rank(number % job.size)
        if not process.spools and process.alive:
            process.init(env=env)
        return process

    @rule(target=processes, run=IDS, resume=st.booleans(), local=st.booleans())
    def init(self, run: str | None, resume: bool, local: bool) -> Process:
        process = self.world.process("plain")
        target = LOCAL if local and run is None else PLUTO
        return process.init(run, resume=resume and run is not None, target=target)

    @rule(target=processes, run=IDS, worker=st.booleans())
    def attach(self, run: str | None, worker: bool) -> Process:
        process = self.world.process("side")
        return process.attach(run, label="eval", wanted="worker" if worker else None)

    # --- what processes do ------------------------------------------------------------------------

    @rule(process=processes, name=NAMES, torn=st.booleans(), rotate=st.booleans())
    def log(self, process: Process, name: str, torn: bool, rotate: bool) -> None:
        if not _open(process):
            return
        self.counter += 1
        process.log(**{name: float(self.counter)})
        if rotate:
            process.spool.rotate()
        if torn:
            process.spool.tear()

    @rule(process=processes)
    def poison(self, process: Process) -> None:
        if _open(process):
            process.log(loss=0.0, poison=True)

    @rule(process=processes, add=st.booleans(), nudge=st.booleans())
    def tags_change(self, process: Process, add: bool, nudge: bool) -> None:
        run = self._active_in(process)
        if run is None:
            return
        known = self.tags[run.key]
        self.world.nudges = nudge
        if add or not known:
            if len(known) < 40:
                self.counter += 1
                process.add_tags(f"t{self.counter}")
                known.add(f"t{self.counter}")
        else:
            gone = sorted(known)[0]
            self.world.look()  # nobody removes what he cannot see
            if self._active_in(process) is not None:
                process.remove_tags(gone)
                known.discard(gone)
        self.world.nudges = True

    @rule(process=processes, nudge=st.booleans())
    def config_change(self, process: Process, nudge: bool) -> None:
        run = self._active_in(process)
        if run is None:
            return
        self.counter += 1
        self.world.nudges = nudge
        process.update_config(**{f"k{self.counter}": self.counter})
        self.config[run.key][f"k{self.counter}"] = self.counter
        self.world.nudges = True

    @rule(
        process=processes, how=st.sampled_from(["finish", "finish 1", "close", "raises", "sigterm", "exit"])
    )
    def end(self, process: Process, how: str) -> None:
        if not _open(process):
            return
        match how:
            case "finish":
                process.finish()
            case "finish 1":
                process.finish(code=1)
            case "close":
                process.close()
            case "raises":
                process.raises()
            case "sigterm":
                process.sigterm()
            case "exit":
                process.finish(at_exit=True).exit(3)

    @rule(process=processes)
    def let_go(self, process: Process) -> None:
        if process.alive and process.spools:
            process.let_go()

    @rule(process=processes, noticed=st.booleans())
    def die(self, process: Process, noticed: bool) -> None:
        if process.alive:
            if noticed:
                process.kill()
            else:
                process.vanish()

    @rule(process=processes)
    def last_words_unread(self, process: Process) -> None:
        """It writes, and is killed before anybody has read it."""
        if _open(process):
            self.world.nudges = False
            process.finish()
            self.world.nudges = True
            process.kill()

    @rule(job=launches)
    def restart_job(self, job: Launch) -> None:
        if job.launcher.alive and job.attempt < job.max_restarts:
            job.restart()

    @rule(job=launches)
    def launcher_dies(self, job: Launch) -> None:
        if job.launcher.alive:
            job.launcher.kill()

    # --- the world --------------------------------------------------------------------------------

    @rule(effects=st.integers(0, 8))
    def die_soon(self, effects: int) -> None:
        self.world.die_after(effects)

    @rule()
    def restart_coordinator(self) -> None:
        if self.world.running:
            self.world.kill()
        self.world.start()

    @rule()
    @precondition(lambda self: self.world.running)
    def kill_coordinator(self) -> None:
        self.world.kill()

    @rule(seconds=st.sampled_from([0.1, 1.0, 2.0, 5.0, 11.0, 36.0, 121.0, 3601.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.wait(seconds)

    @rule(down=st.booleans())
    def server(self, down: bool) -> None:
        self.world.server.down = down

    @rule(call=st.sampled_from(["ship", "status", "tags", "config", "names", "open"]), lost=st.booleans())
    def server_stumbles(self, call: str, lost: bool) -> None:
        answer = Unavailable("later") if call == "open" else Unknown("no answer") if lost else Retry("later")
        self.world.server.answer(call, answer)

    @rule(kind=st.sampled_from(["OpenRun", "Ship", "Control", "WriteDocument"]))
    def slow(self, kind: str) -> None:
        self.world.hold.add(kind)

    @rule()
    def fast(self) -> None:
        self.world.release()

    @rule(broken=st.booleans())
    def store(self, broken: bool) -> None:
        self.world.store_broken = broken

    @rule(
        status=st.sampled_from(["COMPLETED", "FAILED", "RUNNING"]),
        force=st.booleans(),
        which=st.integers(0, 5),
    )
    @precondition(lambda self: self.world.running)
    def person_finishes(self, status: str, force: bool, which: int) -> None:
        runs = list(self.world.book.runs)
        if runs:
            self.world.force_finish(runs[which % len(runs)].key, status, force=force)

    @rule(which=st.integers(0, 5))
    def person_cancels(self, which: int) -> None:
        runs = list(self.world.server.runs.values())
        if runs:
            runs[which % len(runs)].cancelled = True

    # --- what must be true ------------------------------------------------------------------------

    @invariant()
    def shared_state_is_merged(self) -> None:
        """G9: no update of tags or config is lost."""
        if not self.world.running:
            return
        self.world.look()
        for key, tags in self.tags.items():
            run = self.world.book.runs.get(key)
            if run is not None and self._everything_read():
                assert tags <= set(run.tags), f"G9: {tags - set(run.tags)} lost"
                config = self.world.book.configs[key].body
                assert self.config[key].items() <= msgspec.json.decode(config).items()

    def teardown(self) -> None:
        world = self.world
        world._die_after = None
        world.server.down = world.store_broken = False
        world.server.forget_answers()
        if not world.running:
            world.start()
        world.release()
        world.hello()
        for process in world.processes:
            if process.alive:
                process.exit(0)
        world.restart()
        for target in (PLUTO, LOCAL):  # any process of the user hands the key over
            world.give_key(target)
        world.wait(4000)
        self._all_is_told()

    def _all_is_told(self) -> None:
        world = self.world
        for run in world.book.runs:
            assert run.ended, f"{run.key} goes on without anybody"
            assert run.reported, f"{run.key} was not reported"
            if run.target.mode == "pluto":
                there = world.server.runs[run.id or 0]
                assert there.status == run.status
                assert there.tags == run.tags
                config = there.config
                assert self.config[run.key].items() <= config.items()
                assert self.tags[run.key] <= set(there.tags)
        assert not world.spools, f"folders are left: {[world.book.leases.get(key) for key in world.spools]}"
        assert world.stopped is not None, "the coordinator does not end"

    def _active_in(self, process: Process) -> Run | None:
        """The Run in which a process may speak just now."""
        if not _open(process) or not self.world.running:
            return None
        lease: Lease | None = self.world.book.leases.get(process.spool.lease_id)
        if lease is None or lease.state != "active" or lease.run is None:
            return None
        return self.world.book.runs.get(lease.run)

    def _everything_read(self) -> bool:
        return all(
            lease.folded == len(self.world.spools[lease.lease_id].entries)
            for lease in self.world.book.leases
            if lease.lease_id in self.world.spools and lease.state == "active"
        )


def _open(process: Process) -> bool:
    """Whether it lives and has a lease that it has not ended."""
    if not process.alive or not process.spools or process.spool.lease_id not in process.world.spools:
        return False
    return type(process.spool.entries[-1]).__name__ not in ("Finished", "Closed")


TestMachine = Machine.TestCase
TestMachine.settings = settings(
    max_examples=EXAMPLES,
    stateful_step_count=40,
    deadline=None,
    report_multiple_bugs=False,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
