"""The end of a lease: told, taken, and waited for as long as it is worth waiting (G5, R11)."""

from __future__ import annotations

import logging
from collections.abc import Callable

from pluto_dist.client import announce
from pluto_dist.client.lease import LeaseFiles
from pluto_dist.client.link import Link
from pluto_dist.core.messages import View
from pluto_dist.errors import PlutoDistError, RunEndedError, WaitTimeoutError
from pluto_dist.node.identity import boot_clock
from pluto_dist.node.settings import Settings

SHOW_AFTER_S = 1.0
SHOW_EVERY_S = 0.5

_log = logging.getLogger("pluto_dist")


def leave(
    link: Link,
    files: LeaseFiles,
    settings: Settings,
    timeout_s: float | None,
    *,
    exiting: bool,
    for_all: bool = False,
) -> None:
    """Waits for the coordinator to take the end; the last one out waits until everything is safe.

    Never raises: the end is on disk before it comes here, and is carried out by whoever comes next.

    Args:
        link, files, settings: of the lease.
        timeout_s: bound of the wait, None for the setting.
        exiting: the process itself ends, so its death is what releases the lease.
        for_all: it waits in the job's place, whoever else is still alive.
    """
    bound = settings.exit_wait_s if timeout_s is None else timeout_s
    try:
        taken, safe = _await_end(link, files, settings, bound, for_all=for_all)
    except PlutoDistError as error:
        _log.warning(
            "%s; the end of the Run is on disk in %s and will be carried out later", error, files.folder
        )
        link.close()
        return
    finally:
        _tell_dropped(files)
    if not safe:
        _tell_undelivered(link.view, files, bound)
    announce.finished(link.view, settings, files.records)
    link.close()
    if taken and not exiting:
        files.release()


def _await_end(
    link: Link, files: LeaseFiles, settings: Settings, bound: float, *, for_all: bool
) -> tuple[bool, bool]:
    """Whether the coordinator has taken the end, and whether all that is to be waited for is safe."""
    deadline = boot_clock() + bound
    files.sync()
    taken = link.wait(lambda view: link.settled(view) and _ended(view), bound)
    return taken, taken and _wait_shown(link, _drained if for_all else _safe, deadline, settings)


def _tell_dropped(files: LeaseFiles) -> None:
    if files.dropped:
        _log.warning(
            "%d records were dropped for want of disk space (%s)", files.dropped, files.trouble or "over"
        )


def _tell_undelivered(view: View | None, files: LeaseFiles, waited_s: float) -> None:
    _log.warning(
        "not everything was delivered within %g s%s; it is on disk in %s and will be delivered by the "
        "coordinator or by `pluto-dist sync`",
        waited_s,
        f" ({view.trouble})" if view is not None and view.trouble else "",
        files.folder,
    )


def _wait_shown(link: Link, until: Callable[[View], bool], deadline: float, settings: Settings) -> bool:
    """Waits; on a terminal people see what for, once it takes longer than they would think nothing of."""
    if link.wait(until, max(0.0, min(SHOW_AFTER_S, deadline - boot_clock()))):
        return True
    with announce.Waiting(settings) as waiting:
        while (left := deadline - boot_clock()) > 0:
            waiting.show(link.view, left)
            if link.wait(until, min(SHOW_EVERY_S, left)):
                return True
    return False


def wait_for_delivery(link: Link, files: LeaseFiles, timeout_s: float) -> None:
    """Waits until the coordinator has delivered everything that this process has written.

    Raises:
        RunEndedError: nobody tells this process any more.
        WaitTimeoutError: the time is over.
    """
    deadline = boot_clock() + timeout_s
    while not _delivered(link, files):
        if not link.speaks:
            raise RunEndedError(
                "flush() cannot know whether all was delivered, because this process has ended the Run; what "
                f"is left is on disk in {files.folder} and will be delivered"
            )
        left = deadline - boot_clock()
        if left <= 0:
            raise WaitTimeoutError(
                f"not everything was delivered within {timeout_s:g} s; it is on disk in {files.folder}"
            )
        link.refresh(min(left, 0.25))


def _delivered(link: Link, files: LeaseFiles) -> bool:
    view = link.view
    return view is not None and link.settled(view) and view.passed >= files.records


def _ended(view: View) -> bool:
    return view.state in ("ended", "refused")


def _drained(view: View) -> bool:
    return view.drained


def _safe(view: View) -> bool:
    """Earlier leavers have nothing to wait for; the last one out sees to it that everything is safe."""
    return not view.last_out or view.drained
