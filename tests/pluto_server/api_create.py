"""`POST /api/runs/create`: a new run, or an attach to the one with the same external id.

The real server does this in separate transactions. Between them others get in: several first creates of a
project race (all but one fail), and so do several creates with one external id (all but one attach).
"""

from dataclasses import dataclass

from .api_common import TAGS, decode, refuse_two_groups, run_answer, whole
from .core import Core
from .jsontext import Json, JsonObject, deep_merge, is_storable
from .runs import Project, Run
from .status import reopen
from .tenants import Key
from .wire import INTERNAL, RefusalError, Request, Response, error, json_response
from .zod import boolean, nullish, number, obj, string

_LATEST_MS = 8_640_000_000_000_000
_COLUMN = 255
_MAX_HOPS = 10
_TIME = number(whole=True, at_least=0, at_most=_LATEST_MS)
_FAILED = error(500, "Failed to create run")
_BAD_JSON = error(400, "Invalid JSON format in request body")

SCHEMA = obj(
    {
        "runName": string(),
        "projectName": string(),
        "externalId": nullish(string(at_least=1)),
        "tags": nullish(TAGS),
        "loggerSettings": nullish(string()),
        "systemMetadata": nullish(string()),
        "config": nullish(string()),
        "createdAt": nullish(_TIME),
        "updatedAt": nullish(_TIME),
        "forkRunId": nullish(number()),
        "forkStep": nullish(number()),
        "inheritConfig": nullish(boolean()),
        "inheritTags": nullish(boolean()),
    }
)


@dataclass(frozen=True, slots=True)
class _New:
    """What a new run gets, checked."""

    logger_settings: Json
    system_metadata: Json
    config: Json
    tags: list[str]
    forked_from: int | None
    fork_step: int | None


def create(core: Core, key: Key, request: Request, body: JsonObject) -> Response:
    """Answer a create."""
    return _Create(core, key, request, body).answer()


def merge_config(core: Core, run: Run, update: JsonObject) -> None:
    """Read, merge, write without a lock in between: concurrent merges can lose one another's keys."""
    with core.state.lock:
        before = run.config
    core.state.window()
    with core.state.lock:
        run.config = deep_merge(before, update) if isinstance(before, dict) else update
        run.updated_ms = core.state.now_ms()


@dataclass(frozen=True, slots=True)
class _Create:
    """One create and its steps."""

    core: Core
    key: Key
    request: Request
    body: JsonObject

    @property
    def _external_id(self) -> str | None:
        external_id: str | None = self.body.get("externalId")
        return external_id

    def answer(self) -> Response:
        """Do the steps in the server's order."""
        refuse_two_groups(self.body.get("tags") or [])
        state, project = self.core.state, self._upsert_project()
        with state.lock:
            known = state.book.by_external_id(project, self._external_id)
        if known is not None:
            return self._attached(known, (None, None))
        if self.key.organization.at_limit:
            raise RefusalError(error(400, "Organization is at limit"))
        with state.lock:
            new = self._checked(project)
            project.counter += 1
            project.updated_ms = state.now_ms()
            number = project.counter
            self._refuse_what_the_database_refuses(new)
        state.window()
        with state.lock:
            winner = state.book.by_external_id(project, self._external_id)
            if winner is None:
                run = self._insert(project, number, new)
                return self._answered(run, (new.forked_from, new.fork_step), resumed=False)
            state.book.take_run_id()
        return self._attached(winner, (new.forked_from, new.fork_step))

    def _upsert_project(self) -> Project:
        name: str = self.body["projectName"]
        if len(name) > _COLUMN or not is_storable([name, self._external_id]):
            raise RefusalError(INTERNAL)
        state, organization = self.core.state, self.key.organization.id
        with state.lock:
            project = state.book.project(organization, name)
        if project is not None:
            return project
        state.window()
        with state.lock:
            if state.book.project(organization, name) is not None:
                raise RefusalError(INTERNAL)  # unique violation: somebody else's insert came first
            return state.book.add_project(organization, name, self._given("createdAt", state.now_ms()))

    def _given(self, name: str, default: int) -> int:
        value = self.body.get(name)
        return default if value is None else int(value)

    def _attached(self, run: Run, fork: tuple[int | None, int | None]) -> Response:
        state = self.core.state
        with state.lock:
            was = reopen(state.book, run, self.key, state.now_ms())
            if was is not None:
                self.core.audit.status.reopened(run, was)
        config = decode(self.body.get("config"), INTERNAL)
        if isinstance(config, dict):
            merge_config(self.core, run, config)
        with state.lock:
            return self._answered(run, fork, resumed=True)

    def _checked(self, project: Project) -> _New:
        logger_settings, system_metadata, config = (
            decode(self.body.get(name), _BAD_JSON) for name in ("loggerSettings", "systemMetadata", "config")
        )
        tags: list[str] = list(self.body.get("tags") or [])
        if not self.body.get("forkRunId"):
            return _New(logger_settings, system_metadata, config, tags, None, None)
        parent, step = self._fork_parent(project)
        if self.body.get("inheritConfig") is not False and isinstance(parent.config, dict):
            config = {**parent.config, **(config if isinstance(config, dict) else {})}
        if self.body.get("inheritTags"):
            tags = _one_group([*parent.tags, *(tag for tag in tags if tag not in parent.tags)])
        return _New(logger_settings, system_metadata, config, tags, parent.id, step)

    def _fork_parent(self, project: Project) -> tuple[Run, int]:
        state, organization = self.core.state, self.key.organization.id
        if self.body.get("forkStep") is None:
            raise RefusalError(error(400, "forkStep is required when forkRunId is provided"))
        parent = state.book.run(organization, whole(self.body["forkRunId"]))
        if parent is None or parent.project is not project:
            raise RefusalError(error(400, "Fork parent run not found in this project"))
        step = whole(self.body["forkStep"])
        for _ in range(_MAX_HOPS):
            if parent.forked_from is None or parent.fork_step is None or step > parent.fork_step:
                break
            parent = state.book.runs[parent.forked_from]
        largest = state.metrics.largest_step((organization, project.name, parent.id), state.now_ms())
        if largest and step > largest:
            text = f"forkStep ({step}) exceeds the parent run's max step ({largest})"
            raise RefusalError(error(400, text))
        return parent, step

    def _refuse_what_the_database_refuses(self, new: _New) -> None:
        run_name: str = self.body["runName"]
        too_long = max(len(run_name), len(self._external_id or "")) > _COLUMN
        given = [run_name, new.config, new.logger_settings, new.system_metadata, *new.tags]
        if too_long or not is_storable(given):
            raise RefusalError(_FAILED)

    def _insert(self, project: Project, number: int, new: _New) -> Run:
        book, now_ms = self.core.state.book, self.core.state.now_ms()
        run = Run(
            book.take_run_id(),
            project,
            number,
            self.body["runName"],
            self._external_id,
            created_ms=self._given("createdAt", now_ms),
            updated_ms=self._given("updatedAt", now_ms),
            tags=new.tags,
            config=new.config,
            system_metadata=new.system_metadata,
            logger_settings=new.logger_settings,
            forked_from=new.forked_from,
            fork_step=new.fork_step,
            inserted_ms=now_ms,
        )
        book.runs[run.id] = run
        book.add_event(run, None, "api", run.created_ms, actor_id=self.key.user_id, key_id=self.key.id)
        return run

    def _answered(self, run: Run, fork: tuple[int | None, int | None], *, resumed: bool) -> Response:
        self.core.audit.status.created(self.request, run, self._external_id)
        self.core.audit.shared.learned(self.request.peer, run, self.body.get("tags") or [])
        answer = run_answer(self.key, run, resumed=resumed)
        answer["forkedFromRunId"], answer["forkStep"] = fork
        return json_response(answer)


def _one_group(tags: list[str]) -> list[str]:
    groups = [tag for tag in tags if tag.startswith("group:")]
    return [tag for tag in tags if tag not in groups[:-1]]
