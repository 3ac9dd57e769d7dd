"""Finding a Run on the server, creating one, and going on with one (R8).

A Run is looked up first, which changes nothing. By number and display id there is a route. An external id has
none: `create` and `resume` would find it, but both reopen a Run that has ended. So `create` leaves the
external id in the Run's `systemMetadata`, which the list can be filtered by. Runs of other clients have no
such mark: they are listed by themselves and their details read, newest first, each once, because an external
id never changes. One that is found is joined, refused or resumed by its number. Only one that is not found is
created. `create` may still meet a Run: one that another node has just made, or one of another client in a
project with more of those than were looked at. It never carries a config, which the server would merge into
that Run; the config follows when the Run is known to be new. The coordinator's key in the Run's
loggerSettings tells a Run of our own, whose answer to create was lost, from another user's with the same id.

A Run that was reopened all the same is named in the refusal, with the status that it had: the coordinator
keeps that on disk until it is put back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import msgspec

from pluto_dist.backend.pluto import guard
from pluto_dist.backend.pluto.client import (
    GIVEN,
    MARKED,
    TERMINAL,
    UNMARKED,
    Client,
    Details,
    Listed,
    RunReply,
    epoch_ms,
    mark,
    parsed,
    read_details,
    read_history,
    read_list,
    read_reached,
    system_metadata,
)
from pluto_dist.backend.pluto.exchange import Failed, Reply, already_exists, failed, not_opened, refused
from pluto_dist.backend.pluto.reporting import reopening
from pluto_dist.core.rules.kinship import goes_on_in_queue
from pluto_dist.core.values.backend import (
    OpenRequest,
    OpenResult,
    Reached,
    Refused,
    Reopened,
    RunOpened,
    Status,
    Unavailable,
)
from pluto_dist.errors import ForkError, ServerRefusedError, UsageError

AGAIN_S = 2.0  # a Run that does not exist yet is made by its owner's node within seconds of the job's start
LOOK_ON_S = 0.5  # between two looks at a project with many Runs of other clients

_run_reply = msgspec.json.Decoder(RunReply)

Call = Callable[[Mapping[str, object]], Reply]


class Opening:
    """Opens Runs, one attempt for each call, without memory of earlier attempts."""

    def __init__(
        self,
        client: Client,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._client = client
        self._lookup = Lookup(client)
        self._clock = clock
        self._wall = wall

    def open(self, request: OpenRequest) -> OpenResult:
        """Creates, resumes or joins a Run."""
        try:
            _check(request)
            found = self._find(request)
            if isinstance(found, Failed):
                return _not_found(found, request)
            if isinstance(found, Missing):
                return _absent(request, found) if request.want == "join" else self._make(request)
            return self._found(request, found)
        except guard.UnfitError as fault:
            return refused(UsageError, str(fault))

    def _find(self, request: OpenRequest) -> Details | Missing | Failed:
        if request.id is not None or request.display_id is not None:
            wanted = request.id if request.id is not None else str(request.display_id)
            return self._lookup.by_id(wanted, request.project)
        if not request.external_id:
            raise guard.UnfitError(
                "a Run is opened by an id: a number, a display id or an external id; a lost answer to a "
                "create without one would make a second Run"
            )
        drawn = request.external_id == request.key and not request.shared
        if drawn and request.asked_s is None and request.want != "join":
            return Missing()  # it was drawn just now
        return self._lookup.by_external_id(
            guard.fit_project(request.project),
            guard.fit_name(request.external_id),
            among_others=request.want in ("create", "join"),
        )

    # --- a Run that was found -----------------------------------------------------------------------

    def _found(self, request: OpenRequest, details: Details) -> OpenResult:
        if request.want == "join":
            return self._join(request, details)
        ours = details.key == request.key
        if ours and request.shared and request.want == "create":
            return self._known(request, details, "", details.status)
        if ours and (request.want == "create" or (_asked_before(request) and details.status == "RUNNING")):
            return self._made_before(request, details)
        if request.want == "create" and not _left_by_its_job(request, details, details.status):
            return already_exists(request, details.display_id or str(details.id))
        return self._resume(request, details)

    def _join(self, request: OpenRequest, details: Details) -> OpenResult:
        """Joins a Run that another node owns, as it is.

        One that an earlier launch of the job has ended counts as absent: its owner's node is about to take it
        up, and with that end this node would send no heartbeats for its ranks.
        """
        if request.launch and details.status in TERMINAL and details.launch != request.launch:
            return Unavailable(
                f"Run {details.display_id or details.id} is {details.status} since an earlier launch; "
                "its owner, on another node, takes it up",
                AGAIN_S,
                absent=True,
                untouched=True,
            )
        return self._known(request, details, "", details.status)

    def _made_before(self, request: OpenRequest, details: Details) -> OpenResult:
        """Takes a Run that a lost attempt of ours has made; the monitor may have marked it FAILED since."""
        parent = self._lookup.parent(request)
        if isinstance(parent, Refused | Unavailable):
            return parent
        run = parsed(self._client.resume({"runId": details.id}), _run_reply.decode)
        if isinstance(run, Failed):
            return not_opened(run, request)
        return self._fill(request, run) or _created(request, run, parent, details)

    def _resume(self, request: OpenRequest, details: Details) -> OpenResult:
        if not guard.goes_in_header(details.project_name):
            return refused(
                ServerRefusedError,
                f"Run {details.id} belongs to project {details.project_name!r}; ingest takes project names "
                "of visible ASCII characters only, so nothing could be logged to it",
            )
        reply, called_ms = self._called(request, self._client.resume, {"runId": details.id})
        run = parsed(reply, _run_reply.decode)
        if isinstance(run, Failed):
            return not_opened(run, request, untouched=not reply.maybe_carried_out)
        was = self._was(request, details, called_ms)
        if isinstance(was, Failed):
            return not_opened(was, request)
        return self._sign(request, run) or self._known(request, details, run.url, was)

    def _was(self, request: OpenRequest, details: Details, called_ms: int) -> Status | Failed:
        """The status before the first attempt, which a repeat finds only in the history."""
        if details.status in TERMINAL or request.asked_s is None:
            return details.status
        history = read_history(self._client, details.id)
        if isinstance(history, Failed):
            return history
        before = reopening(history.in_order(), called_ms)
        return before.status if before is not None else "RUNNING"

    # --- a Run that was not found -------------------------------------------------------------------

    def _make(self, request: OpenRequest) -> OpenResult:
        parent = self._lookup.parent(request)
        if isinstance(parent, Refused | Unavailable):
            return parent
        resumes = request.want == "resume"
        call = self._client.resume if resumes else self._client.create
        fields = _resume_fields(request) if resumes else _create_fields(request, parent)
        reply, called_ms = self._called(request, call, fields)
        run = parsed(reply, _run_reply.decode)
        if isinstance(run, Failed):
            return not_opened(run, request, untouched=not reply.maybe_carried_out)
        if not run.resumed:
            return self._fill(request, run) or self._beside(request, _created(request, run, parent))
        return self._met(request, run, parent, called_ms)

    def _beside(self, request: OpenRequest, made: RunOpened) -> RunOpened:
        """Looks for a launch on another machine that was given the same id."""
        if not request.given_id:
            return made
        namesake = self._lookup.namesake(made.project, request.given_id, made.id)
        return msgspec.structs.replace(made, namesake=namesake)

    def _met(self, request: OpenRequest, run: RunReply, parent: Parent | None, called_ms: int) -> OpenResult:
        """Handles a `create` or `resume` that met an existing Run which the look-up had missed."""
        details = read_details(self._client, run.run_id)
        if isinstance(details, Failed):
            return not_opened(details, request)
        history = read_history(self._client, run.run_id)
        if isinstance(history, Failed):
            return not_opened(history, request)
        before = reopening(history.in_order(), called_ms)
        ours = details.key == request.key
        if ours and request.shared and request.want == "create":  # made a moment ago for another part
            return self._known(request, details, run.url, details.status)
        if ours and (request.want == "create" or (_asked_before(request) and before is None)):
            return self._fill(request, run) or _created(request, run, parent, details)
        was: Status = before.status if before is not None else "RUNNING"
        if request.want == "create" and not _left_by_its_job(request, details, was):
            reopened = None
            if before is not None:
                reopened = Reopened(run.run_id, run.project_name, before.status, before.since_ms)
            return already_exists(request, run.url, reopened)
        return self._sign(request, run) or self._known(request, details, run.url, was)

    # --- what both need -----------------------------------------------------------------------------

    def _sign(self, request: OpenRequest, run: RunReply) -> Refused | Unavailable | None:
        """Marks the Run with the job that has taken it up, for other nodes and later starts; None if done."""
        if not (request.launch or request.scheduled):
            return None
        signature = {"loggerSettings": mark(request.key, request.launch, request.scheduled)}
        failure = failed(self._client.set_status(run.run_id, "RUNNING", signature))
        return None if failure is None else not_opened(failure, request)

    def _fill(self, request: OpenRequest, run: RunReply) -> Refused | Unavailable | None:
        """Sends what a new Run still lacks; None when that is done. May be repeated."""
        config = guard.fit_object(request.config)
        if config != "{}":
            failure = failed(self._client.merge_config(run.run_id, config))
            if failure:
                return not_opened(failure, request)
        if request.updated_ms is not None:
            # An old `updatedAt` without a sign of life is marked FAILED within a minute.
            failure = failed(self._client.trigger(run.run_id))
            if failure:
                return not_opened(failure, request)
        return None

    def _known(self, request: OpenRequest, details: Details, url: str, was: Status) -> OpenResult:
        """A Run that existed, with how far it has come, so that nothing of it is overwritten."""
        reached = read_reached(self._client, details.id, details.project_name)
        if isinstance(reached, Failed):
            return not_opened(reached, request, untouched=request.want == "join")
        return _known(details, url, was, reached)

    def _called(self, request: OpenRequest, call: Call, fields: Mapping[str, object]) -> tuple[Reply, int]:
        """The reply, and the server's time when a call for this request may have reached it first."""
        before = self._clock()
        reply = call(fields)
        ago_s = self._clock() - before + (request.asked_s or 0.0)
        stated = reply.answer.server_ms if reply.answer else None
        now_ms = round(self._wall() * 1000) if stated is None else stated
        return reply, now_ms - round(ago_s * 1000)


def _asked_before(request: OpenRequest) -> bool:
    """Whether a Run with this key may come from a lost attempt of this very `either`, and so be a new one.

    If nothing was asked yet, it is one whose coordinator has lost its memory; a shared one may be the work of
    another node. Both have tags, a config and steps by now that must stay.
    """
    return request.want == "either" and request.asked_s is not None and not request.shared


def _left_by_its_job(request: OpenRequest, details: Details, was: Status) -> bool:
    return goes_on_in_queue(request.scheduled, details.scheduled, was)


def _not_found(failure: Failed, request: OpenRequest) -> OpenResult:
    if request.want == "join" and status_of(failure) == 404:
        return _absent(request, Missing())
    return not_opened(failure, request, untouched=True)


def _absent(request: OpenRequest, missing: Missing) -> Unavailable:
    named = request.external_id or request.display_id or request.id
    if missing.unseen:
        return Unavailable(
            f"looking for Run {named!r} among the Runs of other clients in project {request.project!r}; "
            f"{missing.unseen} of them are left",
            LOOK_ON_S,
            untouched=True,
        )
    return Unavailable(
        f"the server has no Run {named!r} in project {request.project!r} yet; "
        "its owner, on another node, makes it",
        AGAIN_S,
        absent=True,
        untouched=True,
    )


def _check(request: OpenRequest) -> None:
    """Checks the request before anything is sent.

    Raises:
        UnfitError: the server can never accept it.
    """
    if request.want in ("create", "either"):
        _create_fields(request, Parent(0, b"{}", ()) if request.parent is not None else None)


def _create_fields(request: OpenRequest, parent: Parent | None) -> dict[str, object]:
    external_id = guard.fit_name(request.external_id or "")
    fields: dict[str, object] = {
        "runName": guard.fit_name(request.name),
        "projectName": guard.fit_project(request.project),
        "externalId": external_id,
        "tags": guard.fit_tags(request.tags),
        "loggerSettings": mark(request.key, request.launch, request.scheduled),
        "systemMetadata": system_metadata(
            guard.fit_object(request.system_metadata), external_id, request.given_id
        ),
    }
    guard.fit_object(request.config)  # refused now, not when the Run exists
    if request.created_ms is not None:
        fields["createdAt"] = guard.epoch_ms(request.created_ms)
    if request.updated_ms is not None:
        fields["updatedAt"] = guard.epoch_ms(request.updated_ms)
    if parent is not None:
        if request.fork_step is None:
            raise guard.UnfitError(f"a fork of Run {parent.id} needs the step it continues after")
        fields["forkRunId"] = parent.id
        fields["forkStep"] = guard.fork_step(request.fork_step)
        fields["inheritConfig"] = False  # merged deeply on our side; the server's merge is shallow
    return fields


def _resume_fields(request: OpenRequest) -> dict[str, object]:
    return {
        "externalId": guard.fit_name(request.external_id or ""),
        "projectName": guard.fit_project(request.project),
    }


def _created(
    request: OpenRequest, run: RunReply, parent: Parent | None, details: Details | None = None
) -> RunOpened:
    """A new Run; with details if an earlier attempt at this request has made it."""
    lineage = details or run
    return RunOpened(
        id=run.run_id,
        display_id=run.display_id or "",
        project=run.project_name,
        url=run.url,
        resumed=False,
        name=guard.fit_name(request.name),
        was_status="RUNNING" if details else None,
        tags=tuple(tag for tag in guard.fit_tags(request.tags) if details is None or tag in details.tags),
        config=details.config_object if details else request.config,
        created_ms=epoch_ms(details.created_at) if details else request.created_ms,
        fork_run_id=lineage.forked_from_run_id,
        fork_step=lineage.fork_step,
        parent_config=parent.config if parent else b"{}",
        parent_tags=parent.tags if parent else (),
    )


def _known(details: Details, url: str, was: Status, reached: Reached) -> RunOpened:
    return RunOpened(
        id=details.id,
        display_id=details.display_id or "",
        project=details.project_name,
        url=url,
        resumed=True,
        name=details.name,
        was_status=was,
        was_since_ms=epoch_ms(details.status_updated) if details.status_updated is not None else None,
        tags=details.tags,
        config=details.config_object,
        created_ms=epoch_ms(details.created_at),
        fork_run_id=details.forked_from_run_id,
        fork_step=details.fork_step,
        reached=reached,
    )


PAGE = 200  # the most that the server lists at once
LOOK = 100  # details read for one question: about a second, and a load that is not noticed


class Parent(msgspec.Struct, frozen=True):
    """The Run that a fork continues, with what the fork may inherit."""

    id: int
    config: bytes
    tags: tuple[str, ...]


class Missing(msgspec.Struct, frozen=True):
    """No Run that was looked at has this external id; `unseen` more of other clients were not."""

    unseen: int = 0


class Others:
    """Runs of one project without this client's mark that have been looked at."""

    def __init__(self) -> None:
        self.seen: set[int] = set()
        self.by_external_id: dict[str, int] = {}

    def learn(self, run_id: int, details: Details | None) -> None:
        """Notes a Run that was looked at; None if it is gone."""
        if details is not None and details.external_id is not None:
            self.by_external_id[details.external_id] = run_id
        self.seen.add(run_id)


class Lookup:
    """Finds Runs by reading only. Threads may share it: the worst is that two of them read a Run twice."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._others: dict[str, Others] = {}

    def by_id(self, run: int | str, project: str) -> Details | Failed:
        """The Run with this number or display id.

        Several projects may have one display id; `project` decides only then, because a Run that is meant may
        well belong to another one.
        """
        if isinstance(run, int):
            return read_details(self._client, guard.run_id(run))
        found = read_details(self._client, run)
        if status_of(found) != 409:
            return found
        narrowed = read_details(self._client, run, project)
        return found if status_of(narrowed) in (404, 409) else narrowed

    def by_external_id(
        self, project: str, external_id: str, *, among_others: bool
    ) -> Details | Missing | Failed:
        """The Run of a project with this external id.

        Args:
            project, external_id: as they were sent to the server.
            among_others: also looks at Runs that other clients made, at most `LOOK` of them that are new.
        """
        marked = self._marked(project, external_id)
        if marked is not None or not among_others:
            return marked or Missing()
        return self._among_others(project, external_id)

    def parent(self, request: OpenRequest) -> Parent | Refused | Unavailable | None:
        """The parent of the fork that is asked for, None if it is no fork."""
        ref = request.parent
        if ref is None:
            return None
        details: Details | Missing | Failed
        if ref.external_id is not None:
            project, external_id = guard.fit_project(request.project), guard.fit_name(ref.external_id)
            details = self.by_external_id(project, external_id, among_others=True)
        else:
            details = self.by_id(ref.id if ref.id is not None else str(ref.display_id), request.project)
        if isinstance(details, Details):
            return Parent(details.id, details.config_object, details.tags)
        if isinstance(details, Missing) or status_of(details) == 404:
            return refused(ForkError, f"The server has no Run {ref} to fork from")
        return not_opened(details, request, untouched=True)

    def namesake(self, project: str, given_id: str, run_id: int) -> str:
        """A running Run whose launch was given this id too, by its display id; "" if none is known."""
        listed = read_list(self._client, project, {"filter": {GIVEN: {"$in": [given_id]}}}, PAGE)
        for row in listed.runs if isinstance(listed, Listed) else ():
            details = read_details(self._client, row.id) if row.id != run_id else None
            if isinstance(details, Details) and details.status == "RUNNING":
                return details.display_id or str(details.id)
        return ""

    def _marked(self, project: str, external_id: str) -> Details | Failed | None:
        listed = read_list(self._client, project, {"filter": {MARKED: {"$in": [external_id]}}}, PAGE)
        if isinstance(listed, Failed):
            return listed
        for row in listed.runs:
            details = read_details(self._client, row.id)
            if isinstance(details, Failed) and status_of(details) != 404:
                return details
            if isinstance(details, Details) and details.external_id == external_id:
                return details
        return None

    def _among_others(self, project: str, external_id: str) -> Details | Missing | Failed:
        others = self._others.setdefault(project, Others())
        known = others.by_external_id.get(external_id)
        if known is not None:
            return read_details(self._client, known)
        offset, left = 0, LOOK
        while True:
            page = read_list(self._client, project, {"fieldFilters": [UNMARKED]}, PAGE, offset)
            if isinstance(page, Failed):
                return page
            fresh = [row.id for row in page.runs if row.id not in others.seen]
            for run_id in fresh[:left]:
                details = read_details(self._client, run_id)
                if isinstance(details, Failed) and status_of(details) != 404:
                    return details
                others.learn(run_id, details if isinstance(details, Details) else None)
                if isinstance(details, Details) and details.external_id == external_id:
                    return details
            left -= len(fresh)
            offset += len(page.runs)
            if left < 0:
                return Missing(max(1, page.total - len(others.seen)))
            if not page.runs or offset >= page.total or (not fresh and len(others.seen) >= page.total):
                return Missing()


def status_of(result: Details | Failed) -> int:
    """The HTTP status of an answer; 0 where there was none."""
    if isinstance(result, Failed):
        return result.answer.status if result.answer else 0
    return 200
