"""`pluto-dist finish RUN --status …`: a person ends a Run that no process will end.

It is a take-over with a new epoch (G1), and only the coordinator does it; one is started if none runs. A Run
that it has never seen (of another host, or of a database that is gone) is first taken up from the store, as
a resuming process would, and then ended.

What is printed was read back, because the server may keep another status, and may be away. The exit code is 1
if it keeps another one or refuses.

JSON: as of `show`.
"""

from __future__ import annotations

import time
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

from pluto_dist.cli.console import print_json
from pluto_dist.cli.options import Dir, Home, Json, Option, RunName, echo
from pluto_dist.cli.show import public
from pluto_dist.core.rules.verdict import server_differs
from pluto_dist.core.values.document import read
from pluto_dist.core.values.messages import AskRun, ForceFinish
from pluto_dist.errors import CoordinatorUnavailableError, OwnerExistsError, PlacesError, RunEndedError
from pluto_dist.read.ask import ensure_running, hand_over_key
from pluto_dist.read.lookup import RUNNING, Lookup, reading_settings

if TYPE_CHECKING:
    from pluto_dist.core.values.document import Document
    from pluto_dist.read.lookup import Known

READ_BACK_S = 15.0  # how long the server may take; the status waits some seconds for what is still delivered
POLL_S = 0.05


class Ending(StrEnum):
    """Terminal statuses."""

    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    TERMINATED = "TERMINATED"
    CANCELLED = "CANCELLED"


def finish(
    run: RunName,
    status: Annotated[Ending, Option(help="The final status.")],
    force: Annotated[
        bool, Option("--force", help="Also if its processes live or cannot be seen, or it has ended.")
    ] = False,
    home: Home = None,
    folder: Dir = None,
    as_json: Json = False,
) -> None:
    """Ends a Run by hand, as a take-over with a new epoch."""
    lookup = Lookup(home, folder)
    if lookup.places is None:
        raise PlacesError(f"a coordinator has to end the Run; looked at: {lookup.where()}")
    lookup.choose(run)  # before anything is started
    ensure_running(lookup.places, reading_settings(home))
    hand_over_key(lookup.places)
    known = lookup.choose(run)
    document = _end(lookup, known, status, force=force)
    differs = server_differs(document.server_status, document.refusals)
    if as_json:
        print_json(public(document, str(known.store), live=True, remark=""))
    else:
        echo(_told(document, differs))
    if differs:
        raise SystemExit(1)


def _told(document: Document, differs: str) -> str:
    named = f"Run {document.display_id or document.key} is {document.status}"
    epoch = f"(epoch {document.epoch})"
    if differs:
        return f"{named} here {epoch}; {differs}"
    if document.reported:
        return f"{named} {epoch}" + (", at the server too" if document.mode == "pluto" else "")
    why = f" ({document.trouble})" if document.trouble else ""
    return f"{named} here {epoch}; the server has not taken it yet{why}, the coordinator goes on trying"


def _end(lookup: Lookup, known: Known, status: Ending, *, force: bool) -> Document:
    if known.live_key is not None:
        return _force(lookup, known.live_key, status, force=force)
    if not force:
        raise _needs_force(known, status)
    return _take_up_and_end(lookup, known, status)


def _needs_force(known: Known, status: Ending) -> Exception:
    named = f"Run {known.head.display_id or known.head.key} in {known.store}"
    if known.head.status != RUNNING:
        return RunEndedError(f"{named} has ended as {known.head.status}; --force makes it {status} instead")
    return OwnerExistsError(
        f"{named} is not known to the coordinator of this node: its processes may be alive on another host. "
        "--force takes it over from the store"
    )


def _force(lookup: Lookup, key: str, status: Ending, *, force: bool) -> Document:
    """Ends the Run, and waits for the status that the server has after that."""
    question: ForceFinish | AskRun = ForceFinish(request=1, run=key, status=status.value, force=force)
    deadline = time.monotonic() + READ_BACK_S
    while True:
        body = lookup.ask(question)
        if body is None:
            raise CoordinatorUnavailableError(f"the coordinator went away; looked at: {lookup.where()}")
        document = read(body)
        if document.reported or time.monotonic() > deadline:
            return document
        question = AskRun(request=1, run=key)
        time.sleep(POLL_S)


def _take_up_and_end(lookup: Lookup, known: Known, status: Ending) -> Document:
    """Resumes the Run in this process, so that the coordinator reads its document, and has it ended."""
    import pluto_dist

    head = known.head
    run = pluto_dist.init(
        dir=str(known.store.parent),
        project=head.project,
        run_id=head.run_id,
        resume=True,
        role="owner",
        label="finish",
        mode="local" if head.mode == "local" else None,
        quiet=True,
        settings={"home": str(lookup.places.base) if lookup.places is not None else None},
    )
    try:
        return _force(lookup, head.key, status, force=True)
    finally:
        run.close()
