"""Why a Run could not be opened, in the error names that callers see."""

from __future__ import annotations

from typing import assert_never

from pluto_dist.backend.pluto.exchange import Failed
from pluto_dist.core.document import read
from pluto_dist.core.outcomes import Rejected, Retry, Unknown
from pluto_dist.core.requests import OpenRequest, Refused, Reopened, Unavailable
from pluto_dist.errors import (
    AmbiguousRunError,
    ForkError,
    KeyRefusedError,
    PlutoDistError,
    RunExistsError,
    RunNotFoundError,
    ServerRefusedError,
)

LAG_S = 1.0  # the server flushes about every five seconds


def refused(error: type[PlutoDistError], message: str) -> Refused:
    """A refusal that becomes `error` in the caller's process."""
    return Refused(error.__name__, message)


def not_opened(failure: Failed, request: OpenRequest, *, untouched: bool = False) -> Refused | Unavailable:
    """What a failure means for the caller of `open`; `untouched` if nothing can have been changed."""
    outcome = failure.outcome
    match outcome:
        case Retry(key_problem=True):
            return refused(KeyRefusedError, f"The server refuses the API key: {outcome.reason}")
        case Retry():
            return Unavailable(outcome.reason, outcome.after_s, untouched=untouched)
        case Rejected():
            return _rejected(failure, outcome.reason, request, untouched)
        case Unknown():
            return Unavailable(outcome.reason, untouched=untouched)
        case _:
            assert_never(outcome)


def already_exists(request: OpenRequest, where: str, reopened: Reopened | None = None) -> Refused:
    """The explicit id of a new Run is taken; `where` is its address or its id."""
    aftermath = "" if reopened is None else f" Asking has reopened it; it is made {reopened.status} again."
    return Refused(
        RunExistsError.__name__,
        f"Run {request.external_id!r} exists in project {request.project!r} ({where}); pass resume=True to "
        f"go on with it, attach() to log beside it, or choose another run_id.{aftermath}",
        reopened,
    )


def _rejected(failure: Failed, reason: str, request: OpenRequest, untouched: bool) -> Refused | Unavailable:
    status = failure.answer.status if failure.answer else 0
    if status == 404:
        return refused(RunNotFoundError, f"The server has no Run {_meant(request)}: {reason}")
    if status == 409:
        return refused(AmbiguousRunError, f"Run {_meant(request)} is not clear: {reason}")
    if "exceeds the parent run's max step" in reason and _parent_reached(request):
        return Unavailable(reason, LAG_S, untouched=untouched)
    if reason.lower().startswith("fork"):
        parent = f"Run {request.parent} at step {request.fork_step}"
        return refused(ForkError, f"The server cannot fork {parent} in project {request.project!r}: {reason}")
    return refused(ServerRefusedError, f"The server refuses the Run: {reason}")


def _parent_reached(request: OpenRequest) -> bool:
    """Whether we know better: the server counts a step only some seconds after it has taken it."""
    if not request.parent_record or request.fork_step is None:
        return False
    summary = read(request.parent_record).summary
    return request.fork_step <= max((point.step for point in summary.values()), default=-1)


def _meant(request: OpenRequest) -> str:
    return str(request.id or request.display_id or request.external_id)
