"""Plays a transcript: one line says what happens, and what changes is written below it.

    > job train ranks=2 restarts=1     a launcher and its ranks, started
    > rank0..1 init x lr=1             `init("x", config={"lr": 1})` in both
    > eval attach x as=eval            a process that was not there before is started, with a label
    > rank0 log loss=0.5
    > rank1 kill                       also: exit 3, raise KeyError, sigterm, finish, finish 1, close, vanish
    > wait 2
    > coordinator kill                 also: start, restart
    > server down                      also: up, cancel
    > person finish x FAILED

What is told: roles as the processes learn them, phases of Runs with their reasons, notes in their history,
and what has changed on the server.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

from pluto_dist.core.rules.verdict import assess, members_of
from pluto_dist.core.values.messages import View
from tests.adapters.memory_backend import StoredRun
from tests.core.processes import Launch, Process
from tests.core.world import World

QUIET_NOTES = {"lease_granted", "opened", "ended", "reported"}  # shown as roles, phases and statuses


class Stage:
    """One world and everybody in it."""

    def __init__(self) -> None:
        self.world = World()
        self._jobs: dict[str, Launch] = {}
        self._cast: dict[str, Process] = {}
        self._roles: dict[str, str] = {}
        self._phases: dict[str, str] = {}
        self._notes: dict[str, int] = {}
        self._server: dict[int, dict[str, str]] = {}

    def play(self, line: str) -> list[str]:
        """Lets one line happen; returns what has changed."""
        who, what, *rest = [*line.split(), ""]
        words = [word for word in rest if word]
        match who:
            case "job":
                self._job(what, dict(word.split("=") for word in words))
            case "wait":
                self.world.wait(float(what))
            case "coordinator":
                getattr(self.world, what)()
            case "server":
                self._serve(what, words)
            case "person":
                self.world.force_finish(words[0], words[1])
            case _ if who in self._jobs:
                self._launcher(self._jobs[who], what)
            case _:
                for name in _names(who):
                    self._act(self._process(name), what, words)
        return list(self._changes())

    # --- what happens -----------------------------------------------------------------------------

    def _job(self, name: str, fields: dict[str, str]) -> None:
        launch = self.world.launch(name, int(fields["ranks"]), int(fields.get("restarts", 0)))
        self._jobs[name] = launch
        self._add(launch, launch.start())

    def _launcher(self, launch: Launch, what: str) -> None:
        if what == "restart":
            self._add(launch, launch.restart())
        else:
            launch.launcher.exit()

    def _add(self, launch: Launch, ranks: list[Process]) -> None:
        prefix = "" if launch.name == "train" else f"{launch.name}."
        for process in ranks:
            process.name = f"{prefix}rank{process.job.rank}"
            self._cast[process.name] = process

    def _process(self, name: str) -> Process:
        if name not in self._cast:
            self._cast[name] = self.world.process(name)
        return self._cast[name]

    def _serve(self, what: str, words: list[str]) -> None:
        if what == "cancel":
            self.world.server.called(words[0]).cancelled = True
        else:
            self.world.server.down = what == "down"

    def _act(self, process: Process, what: str, words: list[str]) -> None:
        values = dict(word.split("=") for word in words if "=" in word)
        plain = [word for word in words if "=" not in word]
        match what:
            case "init" | "attach":
                run = next((word for word in plain if word != "resume"), None)
                label = values.pop("as", process.name) if what == "attach" else None
                config = {key: float(value) for key, value in values.items()}
                start = process.init if what == "init" else process.attach
                start(run, resume="resume" in plain, config=config, label=label)
            case "log":
                process.log(**{key: float(value) for key, value in values.items()})
            case "raise":
                process.raises(plain[0], communication="communication" in plain)
            case "exit":
                process.finish(at_exit=True).exit(int(plain[0]))
            case "finish":
                process.finish(int(plain[0]) if plain else None)
            case "update_config":
                process.update_config(**{key: float(value) for key, value in values.items()})
            case _:
                getattr(process, what)(*plain)

    # --- what has changed -------------------------------------------------------------------------

    def _changes(self) -> Iterator[str]:
        for process in self._cast.values():
            if process.spools and process.spool.lease_id in self.world.views:
                yield from self._changed(process, process.view)
        for run in self.world.book.runs if self.world.running else ():
            found = assess(run, members_of(run, self.world.book.leases_of(run.key)), self.world.now)
            name = run.asked[0] if run.asked else run.display_id
            phase = f"{found.phase} ({found.reason})"
            if self._phases.get(run.key) != phase:
                self._phases[run.key] = phase
                yield f"{name} is {phase}"
            history = self.world.book.histories.get(run.key)
            events = history.events if history is not None else ()
            for event in events[self._notes.get(run.key, 0) :]:
                if event.name not in QUIET_NOTES:
                    detail = " ".join(f"{key}={value}" for key, value in event.detail.items())
                    yield f"{name} notes {event.name} {detail}".rstrip()
            self._notes[run.key] = len(events)
        for server_run in self.world.server.runs.values():
            yield from self._arrived(server_run)

    def _changed(self, process: Process, view: View) -> Iterator[str]:
        role = view.state if view.state == "waiting" else f"{view.role} of epoch {view.epoch}"
        if view.error is not None:
            role = f"refused: {view.error[0]}"
        if self._roles.get(view.lease_id) != role:
            self._roles[view.lease_id] = role
            yield f"{process.name} is {role}"

    def _arrived(self, run: StoredRun) -> Iterator[str]:
        written = {name: points for name, points in run.series.items() if points}
        series = {name: f"{len(points)} from {points[-1].writer}" for name, points in written.items()}
        now = {
            "status": run.status,
            "tags": " ".join(run.tags),
            "config": msgspec.json.encode(run.config).decode(),
            **series,
        }
        before = self._server.get(run.id, {"tags": "", "config": "{}"})
        for key, value in now.items():
            if before.get(key) != value:
                yield f"server has {run.external_id}: {key} {value}"
        self._server[run.id] = now


def _names(words: str) -> list[str]:
    """`rank0..3` are four, `a,b` two."""
    found = re.fullmatch(r"(.*?)(\d+)\.\.(\d+)", words)
    if found is None:
        return words.split(",")
    prefix, first, last = found[1], int(found[2]), int(found[3])
    return [f"{prefix}{number}" for number in range(first, last + 1)]
