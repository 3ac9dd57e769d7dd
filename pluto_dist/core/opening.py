"""Runs on their backend: created once, reopened only where that is really meant (R8, G8).

The own book comes first: the backend is asked only for Runs that this coordinator does not know, or knows as
ended there. While the backend gives no answer the Run is provisional: granted, without ids; the request is
repeated with the same external id until there is an answer.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from pluto_dist.core.book import Config, past_key
from pluto_dist.core.context import Context
from pluto_dist.core.document import restore, show
from pluto_dist.core.effects import OpenRun
from pluto_dist.core.events import OpenEnded
from pluto_dist.core.lane import backoff_s
from pluto_dist.core.lifecycle import Opened as Claim
from pluto_dist.core.merge import add_tags, merge_json
from pluto_dist.core.records import Lease, Prior, Run
from pluto_dist.core.requests import Opened, OpenRequest, Refused, Unavailable


class Opening:
    """Open requests and their answers."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._book = context.book
        self._asked: set[str] = set()
        self._not_before: dict[str, float] = {}

    def create(self, lease: Lease, want: Literal["create", "resume", "either"]) -> Run:
        """Writes down a Run for a claim and asks the backend for it."""
        claim = lease.opened
        key = claim.generated_id
        external = claim.run.external_id if claim.run is not None and claim.run.external_id else key
        run = self._book.runs.put(
            key,
            Run(
                key=key,
                target=claim.target,
                project=claim.project,
                name=claim.name or external,
                external_id=external,
                want=want,
                job_key=claim.job.key,
                attempt=claim.job.attempt,
                created_ms=claim.wall_ms,
                boot_id=self._context.boot_id,
                tags=claim.tags,
                opener=lease.lease_id,
                open_since=self._context.now.at,
            ),
        )
        self._book.configs.put(key, Config(body=bytes(claim.config), given=bytes(claim.config)))
        self._context.touch(key)
        self._ask(run, claim)
        return run

    def reopen(self, run: Run, lease: Lease) -> Run:
        """Takes an ended Run up again; the backend is asked only if it was told of the end."""
        prior = Prior(run.status, run.verdict, run.ended_ms)
        told = run.reported and run.target.mode == "pluto"
        job = lease.opened.job
        run = self._context.change_run(
            run,
            stage="opening" if told else "open",
            want="resume",
            status="RUNNING",
            verdict=None,
            reported=False,
            ended_ms=None,
            prior=prior,
            resumed=True,
            cancelled=False,
            owner=None,
            job_key=job.key,
            attempt=job.attempt,
            since_epoch=run.epoch + 1,
            first_rank_at=self._context.now.at,
            opener=lease.lease_id,
            open_since=self._context.now.at,
            open_failures=0,
        )
        self._context.note(run.key, "reopened", was=prior.status)
        if told:
            self._ask(run, lease.opened)
        return run

    def ended(self, event: OpenEnded) -> Refused | None:
        """Takes the backend's answer; a refusal is returned for the claims that wait for it."""
        run = self._book.runs.get(event.run)
        self._asked.discard(event.run)
        if run is None or run.stage != "opening":
            return None
        match event.result:
            case Opened() as opened:
                self._opened(run, opened)
            case Unavailable(reason=reason, after_s=after_s):
                self._unavailable(run, reason, after_s or 0.0)
            case Refused() as refused:
                return self._refused(run, refused)
        return None

    def wake(self) -> None:
        """Asks again where it is time, and makes Runs provisional that have waited long enough."""
        now = self._context.now.at
        for run in self._book.runs:
            if run.stage != "opening":
                continue
            claim = self._claim(run)
            if claim is None:
                continue
            if not run.provisional and now >= run.open_since + claim.wait_s:
                self._context.change_run(run, provisional=True)
                self._context.note(run.key, "provisional", waited_s=f"{claim.wait_s:g}")
            if run.key not in self._asked and now >= self._not_before.get(run.key, 0.0):
                self._ask(self._book.runs[run.key], claim)

    def deadline(self) -> float | None:
        """When `wake` has something to do."""
        deadlines: list[float] = []
        for run in self._book.runs:
            claim = self._claim(run) if run.stage == "opening" else None
            if claim is None:
                continue
            if not run.provisional:
                deadlines.append(run.open_since + claim.wait_s)
            if run.key not in self._asked:
                deadlines.append(self._not_before.get(run.key, 0.0))
        return min(deadlines, default=None)

    def _claim(self, run: Run) -> Claim | None:
        lease = self._book.leases.get(run.opener)
        return lease.opened if lease is not None else None

    def _ask(self, run: Run, claim: Claim) -> None:
        if run.target.mode == "pluto" and run.target.key_id not in self._context.keys:
            self._not_before[run.key] = self._context.now.at + 1.0
            return
        self._asked.add(run.key)
        ref = claim.run
        known_id = run.id if run.id is not None else (ref.id if ref is not None else None)
        fork = claim.fork
        parent = None if fork is None else self._parent(run, claim)
        config = self._book.configs.get(run.key) or Config()
        self._context.emit(
            OpenRun(
                run=run.key,
                request=OpenRequest(
                    key=run.key,
                    target=run.target,
                    want=run.want,
                    project=run.project,
                    name=run.name,
                    external_id=run.external_id if known_id is None else None,
                    id=known_id,
                    display_id=ref.display_id if ref is not None and known_id is None else None,
                    tags=run.tags,
                    config=config.body,
                    parent=fork.parent if fork is not None else None,
                    parent_record=show(self._book, parent) if parent is not None else b"",
                    fork_step=fork.step if fork is not None else None,
                ),
            )
        )

    def _parent(self, run: Run, claim: Claim) -> Run | None:
        assert claim.fork is not None  # noqa: S101 # the caller looked
        ref = claim.fork.parent
        for other in self._book.runs:
            named = other.external_id == ref.external_id and other.project == run.project
            same = other.id == ref.id if ref.id is not None else other.display_id == ref.display_id
            if other.target == run.target and (named if ref.external_id is not None else same):
                return other
        return None

    def _opened(self, run: Run, opened: Opened) -> None:
        first = run.epoch == 0 and not run.resumed
        if opened.record:
            run = self._taken_over(run, opened.record)
        prior = run.prior
        if first and opened.resumed and opened.was_status not in (None, "RUNNING") and prior is None:
            prior = Prior(opened.was_status, None, None)
        run = self._context.change_run(
            run,
            stage="open",
            id=opened.id,
            display_id=opened.display_id,
            project=opened.project,
            url=opened.url,
            name=opened.name or run.name,
            resumed=run.resumed or opened.resumed,
            prior=prior,
            provisional=False,
            fork_run_id=opened.fork_run_id if opened.fork_run_id is not None else run.fork_run_id,
            fork_step=opened.fork_step if opened.fork_run_id is not None else run.fork_step,
            created_ms=opened.created_ms or run.created_ms,
            pushed_tags=opened.tags,
        )
        if opened.resumed:
            self._join(run, opened)
        else:
            self._inherit(run, opened)
        self._context.note(run.key, "opened", id=str(opened.id), resumed=str(opened.resumed).lower())

    def _taken_over(self, run: Run, record: bytes) -> Run:
        """A local Run comes back from the store, under its old key, with everything that was known of it."""
        papers = restore(record)
        old = papers.run
        config = self._book.configs.get(run.key) or Config()
        self._book.delete_run(run.key)
        self._book.configs.put(old.key, msgspec.structs.replace(config, sides=papers.sides))
        self._book.histories.put(old.key, papers.history)
        self._book.points.put(past_key(old.key), papers.points)
        for name, series in papers.series.items():
            self._book.series.put(f"{old.key}/{name}", series)
        return msgspec.structs.replace(
            run,
            key=old.key,
            external_id=old.external_id,
            epoch=old.epoch,
            since_epoch=old.epoch + 1,
            prior=Prior(old.status, old.verdict, old.ended_ms),
            steps=papers.steps,
            attempts=old.attempts,
            fork_run_id=old.fork_run_id,
            fork_step=old.fork_step,
            next_line=old.next_line,
            rejected=old.rejected,
            first_reject=old.first_reject,
            repeats=old.repeats,
        )

    def _join(self, run: Run, opened: Opened) -> None:
        """The Run existed: its tags stay, the claim's are added; the claim's config is merged over it."""
        config = self._book.configs.get(run.key) or Config()
        mine = config.given
        self._book.configs.put(
            run.key, msgspec.structs.replace(config, body=merge_json(opened.config or b"{}", mine))
        )
        self._context.change_run(
            run,
            tags=add_tags(opened.tags or (), run.tags),
            config_patch=mine if mine != b"{}" else b"",
        )

    def _inherit(self, run: Run, opened: Opened) -> None:
        """A fork starts from its parent's config and, if asked, its tags."""
        claim = self._claim(run)
        pushed = run.tags
        if claim is None or claim.fork is None:
            self._context.change_run(run, pushed_tags=pushed)
            return
        tags = add_tags(opened.parent_tags, run.tags) if claim.fork.inherit_tags else run.tags
        self._context.change_run(run, tags=tags, pushed_tags=pushed)
        if claim.fork.inherit_config and opened.parent_config != b"{}":
            config = self._book.configs.get(run.key) or Config()
            merged = merge_json(opened.parent_config, config.body)
            self._book.configs.put(run.key, msgspec.structs.replace(config, body=merged))
            self._context.change_run(self._book.runs[run.key], config_patch=merged)

    def _unavailable(self, run: Run, reason: str, at_least_s: float) -> None:
        now = self._context.now
        self._not_before[run.key] = now.at + max(at_least_s, backoff_s(run.open_failures, now.jitter))
        self._context.change_run(run, open_failures=run.open_failures + 1, open_trouble=reason)

    def _refused(self, run: Run, refused: Refused) -> Refused | None:
        if run.provisional and refused.error == "RunExistsError":
            # People have been training under this name: the data is kept, under an id of its own.
            fresh = f"{run.external_id}-{run.key[-6:]}"
            run = self._context.change_run(run, external_id=fresh, want="create")
            self._context.note(run.key, "renamed", run_id=fresh, because=refused.message)
            self._not_before[run.key] = self._context.now.at
            return None
        if run.prior is not None and run.epoch > 0:
            outcome = run.prior
            self._context.change_run(
                run,
                stage="ended",
                status=outcome.status,
                verdict=outcome.verdict,
                ended_ms=outcome.ended_ms,
                reported=True,
                prior=None,
            )
        else:
            self._context.change_run(run, stage="refused", open_trouble=refused.message)
        return refused
