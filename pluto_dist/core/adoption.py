"""A Run that the backend has opened becomes ours: ids, tags, config, and what was known of it before."""

from __future__ import annotations

import msgspec

from pluto_dist.core.book import Config, feed_key, past_key
from pluto_dist.core.context import Context
from pluto_dist.core.delivery import kind_of
from pluto_dist.core.document import LeaseShown, restore
from pluto_dist.core.merge import merge_json
from pluto_dist.core.records import Feed, Prior, Run, Verdict
from pluto_dist.core.requests import Opened
from pluto_dist.core.shared import Shared


class Adoption:
    """Nothing of the backend's is lost, and nothing that was changed here in the meantime."""

    def __init__(self, context: Context, shared: Shared) -> None:
        self._context = context
        self._book = context.book
        self._shared = shared

    def adopt(self, run: Run, opened: Opened) -> None:
        """Takes what the backend said of a Run that was asked for."""
        twin = self._twin(run, opened)
        if twin is not None and run.epoch == 0:
            self._context.change_run(twin, asked=(*twin.asked, *run.asked))
            self._book.delete_run(run.key)
            return
        known = run.prior is not None
        if opened.record and not known:
            run = self._taken_over(run, opened.record)
        prior = run.prior
        goes_on = prior is None and not run.relay and not run.ended and opened.resumed
        if goes_on and opened.was_status not in (None, "RUNNING"):
            prior = Prior(Verdict(opened.was_status, "as it was before it was reopened"))
        run = self._context.change_run(
            run,
            opening=False,
            provisional=False,
            id=opened.id,
            display_id=opened.display_id,
            project=opened.project,
            url=opened.url,
            name=opened.name or run.name,
            resumed=run.resumed or opened.resumed,
            prior=prior,
            fork_run_id=opened.fork_run_id if opened.fork_run_id is not None else run.fork_run_id,
            fork_step=opened.fork_step if opened.fork_run_id is not None else run.fork_step,
            created_ms=opened.created_ms or run.created_ms,
            open_trouble="",
            asked_ms=0,
            status=opened.was_status if run.relay and opened.was_status else run.status,
        )
        if opened.resumed:
            self._join(run, opened, known=known)
        else:
            self._inherit(run, opened)
        self._context.note(run.key, "opened", id=str(opened.id), resumed=str(opened.resumed).lower())

    def _twin(self, run: Run, opened: Opened) -> Run | None:
        """The same Run, asked for under another id."""
        return next(
            (
                other
                for other in self._book.runs
                if other.key != run.key and other.id == opened.id and other.target == run.target
            ),
            None,
        )

    def _taken_over(self, run: Run, record: bytes) -> Run:
        """A local Run comes back from the store, under its old key, with everything that was known of it."""
        papers = restore(record)
        old = papers.run
        config = self._book.configs.get(run.key) or Config()
        self._book.move_leases(run.key, old.key, old.epoch)
        if old.key != run.key:  # the same after the loss of a database
            self._book.delete_run(run.key)
        self._book.configs.put(old.key, msgspec.structs.replace(config, sides=papers.sides))
        self._book.histories.put(old.key, papers.history)
        self._book.points.put(past_key(old.key), papers.points)
        for name, series in papers.series.items():
            self._book.put_series(old.key, name, series)
        for lease in papers.leases:
            self._resume_feeds(lease)
        return msgspec.structs.replace(
            run,
            key=old.key,
            external_id=old.external_id,
            asked=(*old.asked, *run.asked),
            epoch=old.epoch + run.epoch,
            **(_as_it_ended(old) if run.want == "join" else _reopened(old)),
            steps=papers.steps,
            attempts=old.attempts,
            fork_run_id=old.fork_run_id,
            fork_step=old.fork_step,
            next_line=old.next_line,
            rejected=old.rejected,
            first_reject=old.first_reject,
            repeats=old.repeats,
        )

    def _resume_feeds(self, shown: LeaseShown) -> None:
        """A lease that is still in the spool, of which only the document tells how much was counted."""
        if shown.lease_id not in self._book.leases:
            return
        counted = shown.delivered
        for stream, offsets in shown.cursors.items():
            kind = kind_of(stream)
            if kind is not None and feed_key(shown.lease_id, "run", stream) not in self._book.feeds:
                feed = Feed(lease_id=shown.lease_id, target="run", stream=stream, kind=kind, offsets=offsets)
                self._book.put_feed(msgspec.structs.replace(feed, delivered=counted, passed=counted))
                counted = 0

    def _join(self, run: Run, opened: Opened, *, known: bool) -> None:
        """The Run existed: its tags and config stay, those of the claim are added over them."""
        config = self._book.configs.get(run.key) or Config()
        wanted = run.tags
        if opened.tags is not None:
            run = self._context.change_run(run, tags=opened.tags, pushed_tags=opened.tags)
            self._shared.add_tags(run.key, wanted)
        mine = b"{}" if known else config.given
        self._shared.rebase_config(run.key, opened.config or config.body, mine)

    def _inherit(self, run: Run, opened: Opened) -> None:
        """A fork starts from its parent's config and, if asked, its tags."""
        wanted = run.tags
        run = self._context.change_run(run, pushed_tags=opened.tags if opened.tags is not None else wanted)
        fork = run.fork
        if fork is None:
            return
        if fork.inherit_tags:
            run = self._context.change_run(run, tags=opened.parent_tags)
            self._shared.add_tags(run.key, wanted)
        if fork.inherit_config and opened.parent_config != b"{}":
            config = self._book.configs.get(run.key) or Config()
            # The backend has only what the caller gave: it inherits nothing by itself.
            mine = merge_json(opened.parent_config, config.body)
            self._shared.rebase_config(run.key, b"{}", mine)


def _reopened(old: Run) -> dict[str, object]:
    return {"prior": Prior(old.verdict, old.ended_ms) if old.verdict is not None else None}


def _as_it_ended(old: Run) -> dict[str, object]:
    """Who only joins a Run that is over leaves it over (G8)."""
    over = ("status", "verdict", "ended_ms", "job_key", "attempt", "telling", "reported", "cancelled")
    return {"relay": "", **{name: getattr(old, name) for name in over}}
