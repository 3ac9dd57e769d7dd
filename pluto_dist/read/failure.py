"""The first failure of a Run, and the lease of the process that failed."""

from __future__ import annotations

from pluto_dist.core.rules.verdict import exception_line
from pluto_dist.core.values.document import Document, LeaseShown
from pluto_dist.core.values.records import Failure


def first_failure(document: Document) -> Failure | None:
    """The first failure of a Run that ended, or of the last attempt that failed in one that goes on."""
    ends = (*document.attempts, *((document.verdict,) if document.verdict is not None else ()))
    return ends[-1].first_failure if ends else None


def lease_of(document: Document, failure: Failure) -> LeaseShown | None:
    """The lease of the process that failed."""
    same = (each for each in document.leases if (each.pid, each.host) == (failure.pid, failure.host))
    return next((each for each in same if each.attempt == failure.attempt), None)


def failed_lease(document: Document) -> LeaseShown | None:
    """The lease of the process that failed first, None if none did or it is not among the Run's."""
    failure = first_failure(document)
    return lease_of(document, failure) if failure is not None else None


def how(failure: Failure) -> str:
    """In what way a process ended, for people."""
    oom = ", out of memory (the kernel's OOM killer)" if failure.oom else ""
    if failure.kind == "exception":
        return exception_line(failure)
    if failure.kind == "exit":
        return f"exited with code {failure.exit_code}{oom}"
    if failure.kind == "signal":
        return f"killed by {failure.signal}{oom}"
    return f"vanished: nobody saw how it ended{oom}"
