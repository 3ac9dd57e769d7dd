"""Finding a Run on the server without changing it.

By number and display id there is a route. An external id has none: `create` and `resume` would find it, but
both reopen a Run that has ended. So `create` leaves the external id in the Run's `systemMetadata`, which the
list can be filtered by. Runs of other clients have no such mark: they are listed by themselves and their
details read, newest first, each once, because an external id never changes.
"""

from __future__ import annotations

import msgspec

from pluto_dist.backend.pluto import guard
from pluto_dist.backend.pluto.client import (
    GIVEN,
    MARKED,
    UNMARKED,
    Client,
    Details,
    Listed,
    read_details,
    read_list,
)
from pluto_dist.backend.pluto.exchange import Failed, not_opened, refused
from pluto_dist.core.values.backend import OpenRequest, Refused, Unavailable
from pluto_dist.errors import ForkError

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
