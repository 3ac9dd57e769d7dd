"""One exchange with the server: the request and its answer as values, and what the answer means. No I/O.

This is the only place where status codes are read. Two questions decide. Was the request certainly not
carried out? Then it is `Retry` or, if it can never be accepted, `Rejected`. Would a repeat be seen (`Kind`
says that)? Then an answer that proves nothing is `Unknown`.

Bodies matter as much as status codes: ingest wraps every failure in 422, so that an overloaded server looks
like bad data; a proxy answers 200, 400 and 404 with pages of its own, which say nothing about the record.

`not_opened` translates the failure to open a Run into the error classes that callers see.
"""

from __future__ import annotations

import math
import re
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Literal, assert_never

import msgspec

from pluto_dist.core.values.backend import (
    Delivered,
    OpenRequest,
    Outcome,
    Refused,
    Rejected,
    Reopened,
    Retry,
    Unavailable,
    Unknown,
)
from pluto_dist.core.values.document import read
from pluto_dist.errors import (
    AmbiguousRunError,
    ForkError,
    KeyRefusedError,
    PlutoDistError,
    RunExistsError,
    RunNotFoundError,
    ServerRefusedError,
)

Kind = Literal[
    "control",  # api, POST: a repeat changes nothing
    "read",  # api, GET
    "beat",  # py: sign of life
    "alert",  # py: a repeat is mailed again
    "metrics",  # ingest: the server de-duplicates
    "rows",  # ingest of data and console lines: a repeat is seen
    "presign",  # files: a repeat adds a metadata row
    "put",  # object storage: a repeat writes the same object
]
Service = Literal["api", "ingest", "py"]

# How much of a request had left when it broke: nothing, some of it, all of it.
Progress = Literal["unsent", "partly", "sent"]


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """A whole HTTP response.

    Attributes:
        after_s: seconds from `Retry-After`, None where it was not given.
        server_ms: the server's clock from `Date`, whole seconds; None where it was not given.
    """

    status: int
    body: bytes = b""
    after_s: float | None = None
    server_ms: int | None = None


class Broken(msgspec.Struct, frozen=True):
    """No whole response arrived."""

    progress: Progress
    reason: str


NotDelivered = Retry | Rejected | Unknown


class Reply(msgspec.Struct, frozen=True):
    """The outcome of a request, with the response from which it was concluded, if there was one."""

    outcome: Outcome
    answer: Answer | None = None

    @property
    def maybe_carried_out(self) -> bool:
        """Whether the request reached something that may have acted on it."""
        return self.answer is not None or isinstance(self.outcome, Unknown)


class Failed(msgspec.Struct, frozen=True):
    """A reply that does not have the wanted value."""

    outcome: NotDelivered
    answer: Answer | None = None


def failed(reply: Reply) -> Failed | None:
    """The failure in a reply, None if it was delivered."""
    return None if isinstance(reply.outcome, Delivered) else Failed(reply.outcome, reply.answer)


def seconds_until(retry_after: str | None, now_s: float) -> float | None:
    """Reads `Retry-After`: seconds or an HTTP date. Nonsense counts as not given."""
    if not retry_after:
        return None
    try:
        seconds = float(retry_after)
    except ValueError:
        moment = epoch_s(retry_after)
        return None if moment is None else max(0.0, moment - now_s)
    return max(0.0, seconds) if math.isfinite(seconds) else None


def epoch_s(http_date: str | None) -> float | None:
    """Reads an HTTP date; None where it is missing or malformed."""
    if not http_date:
        return None
    try:
        moment = parsedate_to_datetime(http_date)
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


INGEST_DONE = re.compile(rb"Stream processed successfully: \d+ records\s*")
INGEST_FAILED = re.compile(r"Failed to process \w+ stream: (?P<kind>\w+) \((?P<family>[^)]*)\)")

# Kinds of failure inside an ingest 422.
KEY_FAULTS = frozenset({"InvalidToken", "MissingToken", "InvalidBearerFormat", "InvalidTokenFormat"})
BEFORE_READING = frozenset({"DatabaseError"})  # the key could not be looked up; no line was read
WHILE_READING = frozenset({"StreamProcessingError"})  # the lines before it are already accepted
SERVER_FAMILIES = re.compile("Database|System|Rate|Resource", re.IGNORECASE)

TOO_LARGE = frozenset({413, 414, 431})
# What S3 takes as a name and MinIO does not, and what neither takes.
NAME_REFUSED = (b"InvalidObjectName", b"InvalidResourceName", b"<Code>KeyTooLongError</Code>")
TOO_SLOW = 408
WAIT = frozenset({TOO_SLOW, 425, 429})
REASON_LENGTH = 300


def classify(kind: Kind, answer: Answer) -> Outcome:
    """The outcome of a request that got a whole response."""
    match kind:
        case "metrics" | "rows":
            return _ingest(kind, answer)
        case "presign":
            return _presign(answer)
        case "put":
            return _put(answer)
        case "control" | "read" | "beat":
            return _json_service(answer)
        case "alert":
            outcome = _json_service(answer)
            unsure = answer.status < 300 or answer.status >= 500  # it mails first, and may then fail
            return Unknown(outcome.reason) if isinstance(outcome, Retry) and unsure else outcome
        case _:
            assert_never(kind)


def classify_broken(kind: Kind, broken: Broken) -> Outcome:
    """The outcome of a request that got no whole response.

    Ingest acts on lines while it reads them; every other service reads the whole body first, so there a
    request that left in part was not carried out.
    """
    streamed = kind in ("metrics", "rows")
    repeatable = kind in ("read", "put")
    if broken.progress == "unsent" or repeatable or (broken.progress == "partly" and not streamed):
        return Retry(broken.reason)
    return Unknown(broken.reason)


def is_expired(answer: Answer) -> bool:
    """Whether object storage refused an upload address, so that a new one may help."""
    return answer.status == 403


def is_name_refused(answer: Answer) -> bool:
    """Whether object storage refused the name of an object, so that another name may help."""
    return answer.status == 400 and any(code in answer.body for code in NAME_REFUSED)


def explain(answer: Answer) -> str:
    """The server's own words, for people; the shapes of all its services."""
    text = _error_text(answer.body) or answer.body.decode("utf-8", "replace")
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return f"{text[:REASON_LENGTH]} (HTTP {answer.status})" if text else f"HTTP {answer.status}"


def _json_service(answer: Answer) -> Outcome:
    if answer.status in (200, 201):
        if _json_object(answer.body) is not None:
            return Delivered()
        return Retry(f"the answer is not the server's: {explain(answer)}", answer.after_s)
    common = _common(answer)
    if common is not None:
        return common
    if 400 <= answer.status < 500 and answer.status != 403 and _error_text(answer.body):
        return Rejected(explain(answer))
    return Retry(explain(answer), answer.after_s)


def _ingest(kind: Kind, answer: Answer) -> Outcome:
    if answer.status == 200 and INGEST_DONE.fullmatch(answer.body):
        return Delivered()
    if answer.status == 422:
        return _ingest_failure(kind, answer)
    if answer.status == TOO_SLOW and kind == "rows":
        return Unknown(explain(answer))  # the lines that were read in time are accepted
    common = _common(answer)
    if common is not None:
        return common
    if 300 <= answer.status < 500:
        return Retry(explain(answer), answer.after_s)
    return Unknown(explain(answer))


def _ingest_failure(kind: Kind, answer: Answer) -> Outcome:
    reason = explain(answer)
    found = INGEST_FAILED.search(reason)
    if found is None:
        return Unknown(reason)
    fault, family = found["kind"], found["family"]
    if fault in KEY_FAULTS:
        return Retry(reason, key_problem=True)
    if fault in BEFORE_READING or (kind == "metrics" and fault in WHILE_READING):
        return Retry(reason, answer.after_s)
    if fault in WHILE_READING or SERVER_FAMILIES.search(family):
        return Unknown(reason)
    return Rejected(reason)


def _presign(answer: Answer) -> Outcome:
    if answer.status == 200 and _json_object(answer.body) is not None:
        return Delivered()
    common = _common(answer)
    if common is not None:
        return common
    if answer.status in (400, 415, 422):
        return Rejected(explain(answer))
    if 300 <= answer.status < 500 or _code(answer.body) == "DATABASE_ERROR":
        return Retry(explain(answer), answer.after_s)
    return Unknown(explain(answer))


def _put(answer: Answer) -> Outcome:
    page = answer.body.lstrip().startswith(b"<")
    if answer.status in (200, 201) and not page:
        return Delivered()
    if answer.status in TOO_LARGE or b"<Code>EntityTooLarge</Code>" in answer.body:
        return Rejected(explain(answer))
    return Retry(explain(answer), answer.after_s)


def _common(answer: Answer) -> Outcome | None:
    if answer.status == 401:
        return Retry(explain(answer), key_problem=True)
    if answer.status in WAIT:
        return Retry(explain(answer), answer.after_s)
    if answer.status in TOO_LARGE:
        return Rejected(explain(answer))
    return None


def _json_object(body: bytes) -> dict[str, object] | None:
    try:
        return msgspec.json.decode(body, type=dict[str, object])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _code(body: bytes) -> object:
    return (_json_object(body) or {}).get("code")


def _error_text(body: bytes) -> str:
    """The text of `{"error": …}`, `{"detail": …}` or `{"message": …}`; "" for any other body."""
    fields = _json_object(body) or {}
    match fields:
        case {"error": {"issues": list(issues)}}:
            return "; ".join(_issue(issue) for issue in issues[:3])
        case {"error": str(error), "message": str(message)}:
            return f"{error}: {message}"
        case {"error": str(text)} | {"detail": str(text)} | {"message": str(text)}:
            return text
        case {"detail": list(faults)}:
            return "; ".join(_issue(fault) for fault in faults[:3])
        case _:
            return ""


def _issue(issue: object) -> str:
    match issue:
        case {"path": list(path), "message": str(message)} | {"loc": list(path), "msg": str(message)}:
            return f"{'.'.join(map(str, path))}: {message}".removeprefix(": ")
        case _:
            return str(issue)


LAG_S = 1.0  # the server flushes about every five seconds


def refused(error: type[PlutoDistError], message: str) -> Refused:
    """A refusal that becomes `error` in the caller's process."""
    return Refused(error.__name__, message)


def not_opened(failure: Failed, request: OpenRequest, *, untouched: bool = False) -> Refused | Unavailable:
    """The result of `open` after a failure; `untouched` if nothing can have been changed."""
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
        return refused(
            RunNotFoundError,
            f"The server has no Run {_meant(request)}: {reason}. It was deleted, or never there: numbers and "
            "ids like MMP-1 are the server's. For a new Run leave run_id out, or choose one of your own",
        )
    if status == 409:
        return refused(AmbiguousRunError, f"Run {_meant(request)} is not clear: {reason}")
    if "exceeds the parent run's max step" in reason and _parent_reached(request):
        return Unavailable(reason, LAG_S, untouched=untouched)
    if reason.lower().startswith("fork"):
        parent = f"Run {request.parent} at step {request.fork_step}"
        return refused(ForkError, f"The server cannot fork {parent} in project {request.project!r}: {reason}")
    return refused(ServerRefusedError, f"The server refuses the Run: {reason}")


def _parent_reached(request: OpenRequest) -> bool:
    """Whether the parent has reached the step after all: the server counts steps some seconds late."""
    if not request.parent_record or request.fork_step is None:
        return False
    summary = read(request.parent_record).summary
    return request.fork_step <= max((point.step for point in summary.values()), default=-1)


def _meant(request: OpenRequest) -> str:
    return str(request.id or request.display_id or request.external_id)
