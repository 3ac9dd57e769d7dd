"""Which of the Runs that are known here a claim means (R4, R5).

A claim names a target: the store of its folder, its server and key. That is where a new Run goes. Whoever
joins a Run need not share it: an eval may be started in another folder, or without the key, and a script may
change its folder before `init()`. So the Runs of the same target come first, then all others of this node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from pluto_dist.core.book import Book
from pluto_dist.core.claims import same_job
from pluto_dist.core.ids import DEFAULT_PROJECT, RunRef
from pluto_dist.core.kinship import predecessor, refers_to
from pluto_dist.core.lifecycle import Opened
from pluto_dist.core.phase import restarts_left
from pluto_dist.core.records import Lease, Run
from pluto_dist.core.relaying import sought


class Finder:
    """Looks at the book; keeps nothing."""

    def __init__(self, book: Book) -> None:
        self._book = book

    def find(self, claim: Opened, parent: Lease | None = None) -> Run | None:
        """The Run that a claim means, None if it means none that is known here, or several.

        Args:
            parent: lease of the process in whose Run the claim joins, if it does.
        """
        if parent is not None:
            return self._book.runs.get(parent.run or "")
        launchers = self._launchers_run(claim)
        if launchers is not None:
            return launchers
        if claim.run is not None:
            return self._named(claim, claim.run)
        if claim.verb == "attach" or (claim.wanted == "side" and claim.job.rank is None):
            live = self._live(claim)
            return live[0] if len(live) == 1 else None
        mine = [run for run in self._book.runs if same_job(claim, run)]
        return mine[-1] if mine and not self._starts_again(claim, mine[-1]) else None

    def predecessor(self, claim: Opened, run: Run) -> Lease | None:
        """Lease of another process that has had the claim's rank in the present start of the job."""
        present = (lease for lease in self._book.leases_of(run.key) if lease.epoch == run.epoch)
        return predecessor(claim, present)

    def _starts_again(self, claim: Opened, run: Run) -> bool:
        """Whether the claim's job was started again, which has nothing to do with the Run of the first start.

        While the launcher has restarts left it says itself what is a restart.
        """
        restarting = restarts_left(run) and not run.ended
        return not restarting and self.predecessor(claim, run) is not None

    def live_names(self, claim: Opened) -> tuple[str, ...]:
        """Live Runs among which a claim without an id would have to choose."""
        return tuple(run.display_id or run.external_id for run in self._live(claim))

    def _named(self, claim: Opened, ref: RunRef) -> Run | None:
        def meant(run: Run) -> bool:
            own = run.target == claim.target and refers_to(ref, run, claim.project)
            return own or (same_job(claim, run) and refers_to(ref, run, run.project))

        def joined(run: Run) -> bool:
            return _joins(claim) and _may_join(claim, run) and refers_to(ref, run, run.project)

        def there(run: Run) -> bool:
            return meant(run) and not sought(run)

        # One that others look for in vain comes last: by now it may have been made, in its own project.
        return self._choose(there, claim) or self._choose(joined, claim) or self._choose(meant, claim)

    def _choose(self, fits: Callable[[Run], bool], claim: Opened) -> Run | None:
        """The one Run that fits; of several that of the claim's own target."""
        found = list(filter(fits, self._book.runs))
        own = [run for run in found if run.target == claim.target]
        return _only(own or found)

    def _live(self, claim: Opened) -> list[Run]:
        live = [run for run in self._book.runs if not (run.ended or sought(run))]
        return [run for run in live if run.target == claim.target] or live

    def _launchers_run(self, claim: Opened) -> Run | None:
        """The Run of the `pluto-dist run` above, unless the process names another one."""
        launcher = self._book.leases.get(claim.launched_by)
        run = self._book.runs.get(launcher.run or "") if launcher is not None else None
        if run is None or claim.run is None or claim.run_from_env:
            return run
        return run if refers_to(claim.run, run, run.project) else None


def _joins(claim: Opened) -> bool:
    """Whether it would rather be beside others than have a Run of its own."""
    return claim.verb == "attach" or claim.run_from_env or claim.wanted == "side"


def _may_join(claim: Opened, run: Run) -> bool:
    """Who only attaches names no project; a script that calls `init()` may have none of its own."""
    if claim.verb == "attach":
        return not sought(run)
    named = claim.project in (run.project, DEFAULT_PROJECT)
    return named and not (run.ended or sought(run))


def _only(runs: Iterable[Run]) -> Run | None:
    found = tuple(runs)
    return found[0] if len(found) == 1 else None
