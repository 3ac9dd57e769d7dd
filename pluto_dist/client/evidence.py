"""Evidence of this process's end, from an exception or an exit code (R9)."""

from __future__ import annotations

import traceback
from typing import Any, cast

from pluto_dist.client.values import clean_text, said_by

LAST_LINES = 40
MESSAGE_LIMIT = 2000
FIRST_SIGNAL_CODE = 128  # from here on shells say a signal with it
TRACEBACK_LIMIT = 20_000  # characters; one line of it may hold a whole array

_COMMUNICATION_TYPES = (ConnectionError, BrokenPipeError, EOFError)
_COMMUNICATION_NAMES = frozenset({"DistNetworkError", "DistBackendError", "DistStoreError"})
_COMMUNICATION_WORDS = (
    "connection reset",
    "connection closed by peer",
    "connection refused",
    "broken pipe",
    "socket timeout",
    "timed out waiting",
    "nccl",
    "gloo",
    "remote process exited",
    "recv failed",
    "store is broken",
)


def evidence_of(error: BaseException) -> dict[str, Any] | None:
    """Fields of an `Evidence` entry; None for an exit that is no failure."""
    if isinstance(error, GeneratorExit):
        return None
    if isinstance(error, SystemExit):
        return evidence_of_exit(error.code, None if error.__suppress_context__ else error.__context__)
    return {
        "kind": "exception",
        "type": clean_text(type(error).__qualname__),
        "message": said_by(error)[:MESSAGE_LIMIT],
        "communication": is_communication(error),
        "traceback": last_lines(error),
    }


def evidence_of_exit(code: object, handled: BaseException | None) -> dict[str, Any]:
    """Fields of an `Evidence` entry about an exit.

    Scripts and torch's `spawn` end with `except …: sys.exit(1)`, so an exception that is being handled is the
    cause. A code that stands for a signal names its cause itself.

    Args:
        code: argument of `sys.exit`.
        handled: the exception that was being handled.
    """
    number = exit_code_of(code)
    found = None
    if 0 < number < FIRST_SIGNAL_CODE and handled is not None and not isinstance(handled, SystemExit):
        found = evidence_of(handled)
    if found is None:
        text = said_by(SystemExit(code))[:MESSAGE_LIMIT] if prints_text(code) else ""
        found = {"kind": "exit"} | ({"message": text} if text else {})
    return found | {"exit_code": number}


def prints_text(code: object) -> bool:
    """Whether the interpreter prints the argument of `sys.exit` as a text; the code is 1 then."""
    return code is not None and not issubclass(type(code), int)  # objects may lie about their class, or raise


def exit_code_of(code: object) -> int:
    """The exit code that the interpreter makes of the argument of `sys.exit`."""
    if prints_text(code):
        return 1
    number = int(cast("int | None", code) or 0)
    return (number if -(2**63) <= number < 2**63 else -1) & 0xFF


def is_communication(error: BaseException) -> bool:
    """Whether peers raise this when another process of the job has died."""
    if isinstance(error, _COMMUNICATION_TYPES) or type(error).__name__ in _COMMUNICATION_NAMES:
        return True
    text = said_by(error).lower()
    return isinstance(error, RuntimeError) and any(word in text for word in _COMMUNICATION_WORDS)


def last_lines(error: BaseException) -> str:
    """The end of the traceback, as it is printed."""
    lines = "".join(traceback.format_exception(error)).splitlines()
    return clean_text("\n".join(lines[-LAST_LINES:])[-TRACEBACK_LIMIT:])
