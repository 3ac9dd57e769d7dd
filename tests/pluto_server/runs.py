"""Projects, runs, status events: rows, ids and look-ups. The rules of statuses are in `status`."""

import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from .jsontext import Json, JsonObject


@dataclass(slots=True)
class Project:
    """A project of one organization; `counter` is the last run number given out."""

    id: int
    organization_id: str
    name: str
    prefix: str
    created_ms: int
    updated_ms: int
    counter: int = 0


@dataclass(slots=True)
class Run:
    """A run's row. Times are epoch milliseconds."""

    id: int
    project: Project
    number: int
    name: str
    external_id: str | None
    created_ms: int
    updated_ms: int
    status: str = "RUNNING"
    status_updated_ms: int | None = None
    status_metadata: Json = None
    tags: list[str] = field(default_factory=list)
    config: Json = None
    system_metadata: Json = None
    logger_settings: Json = None
    notes: str | None = None
    forked_from: int | None = None
    fork_step: int | None = None
    log_names: dict[str, str] = field(default_factory=dict)
    graphs: list[JsonObject] = field(default_factory=list)
    last_seen_ms: int | None = None
    cancel_requested: bool = False
    inserted_ms: int = 0

    @property
    def display_id(self) -> str:
        """Project prefix and number; not unique across projects."""
        return f"{self.project.prefix}-{self.number}"

    @property
    def organization_id(self) -> str:
        """The tenant this run belongs to."""
        return self.project.organization_id


@dataclass(frozen=True, slots=True)
class StatusEvent:
    """One change of status; `created_ms` may be historical."""

    id: int
    run_id: int
    from_status: str | None
    to_status: str
    source: str
    metadata: Json
    actor_id: str | None
    key_id: str | None
    created_ms: int


def prefix_of(project_name: str) -> str:
    """Of a display id: three letters of one word, or the initials of several, padded to 3 and cut to 4."""
    words = [word for word in re.split(r"[-_\s.]+", project_name) if word]
    if not words:
        return "RUN"
    if len(words) == 1:
        return words[0][:3].upper()
    initials = "".join(word[0] for word in words)
    missing = max(0, 3 - len(initials))
    return (initials + words[-1][1 : 1 + missing]).upper()[:4]


def group_of(log_name: str) -> str:
    """Everything before the last slash."""
    return log_name.rpartition("/")[0]


class RunBook:
    """All projects, runs and status events."""

    def __init__(self) -> None:
        self.projects: list[Project] = []
        self.runs: dict[int, Run] = {}
        self.events: list[StatusEvent] = []
        self._next_run_id = itertools.count(1)
        self._next_event_id = itertools.count(1)

    def project(self, organization_id: str, name: str) -> Project | None:
        """The project with exactly this name."""
        mine = (p for p in self.projects if p.organization_id == organization_id)
        return next((p for p in mine if p.name == name), None)

    def add_project(self, organization_id: str, name: str, created_ms: int) -> Project:
        """A new project with its prefix."""
        new_id = len(self.projects) + 1
        project = Project(new_id, organization_id, name, prefix_of(name), created_ms, created_ms)
        self.projects.append(project)
        return project

    def take_run_id(self) -> int:
        """The next run id; a failed insert burns it, as a database sequence does."""
        return next(self._next_run_id)

    def run(self, organization_id: str, run_id: int) -> Run | None:
        """The run, if it belongs to the organization."""
        run = self.runs.get(run_id)
        return run if run is not None and run.organization_id == organization_id else None

    def by_external_id(self, project: Project, external_id: str | None) -> Run | None:
        """The run of a project with this external id."""
        if external_id is None:
            return None
        return next((r for r in self.of_project(project) if r.external_id == external_id), None)

    def by_display_id(self, organization_id: str, display_id: str, project_name: str | None) -> list[Run]:
        """All runs a display id may mean, by project."""
        prefix, _, number = display_id.upper().rpartition("-")
        found = [
            run
            for run in self.runs.values()
            if run.organization_id == organization_id
            and run.project.prefix == prefix
            and run.number == int(number)
            and (project_name is None or run.project.name == project_name)
        ]
        return sorted(found, key=lambda run: run.project.id)

    def of_project(self, project: Project) -> Iterable[Run]:
        """The runs of one project, oldest first."""
        return (run for run in self.runs.values() if run.project is project)

    def add_event(
        self,
        run: Run,
        from_status: str | None,
        source: str,
        created_ms: int,
        *,
        metadata: Json = None,
        actor_id: str | None = None,
        key_id: str | None = None,
    ) -> None:
        """Append the change to the run's present status."""
        event = StatusEvent(
            next(self._next_event_id),
            run.id,
            from_status,
            run.status,
            source,
            metadata,
            actor_id,
            key_id,
            created_ms,
        )
        self.events.append(event)

    def delete(self, run_id: int) -> None:
        """Forget a run and its history."""
        del self.runs[run_id]
        self.events = [event for event in self.events if event.run_id != run_id]

    def history(self, run_id: int) -> list[StatusEvent]:
        """A run's events by time, then id: not the order of writing."""
        mine = [event for event in self.events if event.run_id == run_id]
        return sorted(mine, key=lambda event: (event.created_ms, event.id))
