"""Finding a Run on the server without changing it.

By number and display id only: the server has no such way for external ids.
"""

from __future__ import annotations

import msgspec

from pluto_dist.backend.pluto import guard
from pluto_dist.backend.pluto.client import Client, read_details
from pluto_dist.backend.pluto.exchange import Failed
from pluto_dist.backend.pluto.refusal import not_opened, refused
from pluto_dist.backend.pluto.replies import Details
from pluto_dist.core.requests import OpenRequest, Refused, Unavailable
from pluto_dist.errors import ForkError


class Parent(msgspec.Struct, frozen=True):
    """What a fork takes from the Run it continues."""

    id: int
    config: bytes
    tags: tuple[str, ...]


def find(client: Client, run: int | str, project: str) -> Details | Failed:
    """The Run with this number or display id.

    Several projects may have one display id; `project` decides only then, because a Run that is meant may
    well belong to another one.
    """
    if isinstance(run, int):
        return read_details(client, guard.run_id(run))
    found = read_details(client, run)
    if _status(found) != 409:
        return found
    narrowed = read_details(client, run, project)
    return found if _status(narrowed) in (404, 409) else narrowed


def find_parent(client: Client, request: OpenRequest) -> Parent | Refused | Unavailable:
    """The parent of the fork that is asked for."""
    ref = request.parent
    if ref is None or (ref.id is None and ref.display_id is None):
        return refused(
            ForkError,
            f"The server cannot look up the Run {ref} to fork from; give its numeric or display id",
        )
    details = find(client, ref.id if ref.id is not None else str(ref.display_id), request.project)
    if isinstance(details, Failed):
        if _status(details) == 404:
            return refused(ForkError, f"The server has no Run {ref} to fork from")
        return not_opened(details, request)
    return Parent(details.id, details.config_object, details.tags)


def _status(result: Details | Failed) -> int:
    return result.answer.status if isinstance(result, Failed) and result.answer else 200
