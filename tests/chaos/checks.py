"""Ledgers, server, documents and oracle against each other; a finding is a line that names the guarantee."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import datetime
from functools import cached_property
from itertools import combinations
from typing import Any

from tests.chaos.cast import process_of
from tests.chaos.driver import Play
from tests.chaos.ledger import Account, Kind, read_accounts, writer_of
from tests.chaos.oracle import Member, Trouble, allowed
from tests.chaos.waivers import Waivers

TERMINAL = ("COMPLETED", "FAILED", "TERMINATED", "CANCELLED")
NUMBER = re.compile(r"value (\d+)$")


class Remote:
    """What readers of the server see of one Run: by kind, how often each value is there."""

    def __init__(self, play: Play, row: dict[str, Any]) -> None:
        server = play.served.server
        self.id: int = row["id"]
        self.run: str = row["externalId"]
        self.status: str = row["status"]
        self.tags: list[str] = row["tags"]
        self.metrics = server.metrics(self.id)
        self.counts: dict[Kind, Counter[int]] = {
            "metrics": Counter(
                int(value)
                for name, points in self.metrics.items()
                if name.partition("/")[0] == "loss"
                for _, _, value in points
            ),
            "data": _numbers(row["data"] for row in server.data(self.id)),
            "console": _numbers(row["message"] for row in server.logs(self.id)),
        }
        self.ends = [
            datetime.fromisoformat(event["createdAt"]).timestamp()
            for event in server.history(self.id)
            if event["toStatus"] in TERMINAL
        ]


class Checks:
    """Everything of one play."""

    def __init__(self, play: Play) -> None:
        self.play = play
        self.accounts = read_accounts(play.ledgers)
        self.actors = {actor.part.writer: actor for actor in play.everybody}
        self.remotes = {row["externalId"]: Remote(play, row) for row in play.served.server.runs()}
        self.documents = {document["run_id"]: document for document in play.served.documents()}
        self._by_lease = {
            lease["lease_id"]: run for run, document in self.documents.items() for lease in document["leases"]
        }
        self._choices: Counter[int] = Counter()
        self.trouble = Trouble(tuple(play.faults.absent), tuple(play.faults.full))

    def findings(self) -> list[str]:
        """All of them; empty when all is well."""
        return [
            *self.play.findings,
            *self._records(),
            *self._strangers(),
            *self._tags(),
            *self._series(),
            *self._statuses(),
            *self._reports(),
            *self._deaths(),
            *self._defects(),
        ]

    def counts(self) -> str:
        """How much there was to compare, and of how many Runs only one status was right, in one line."""
        said = Counter(
            {
                kind: sum(len(account.acknowledged[kind]) for account in self.accounts.values())
                for kind in ("metrics", "data", "console")
            }
        )
        ends = Counter(remote.status for remote in self.remotes.values())
        sure = f"one right status for {self._choices[1]} of {self._choices.total()}"
        return f"{len(self.accounts)} ledgers, acknowledged {dict(said)}, Runs {dict(ends)}, {sure}"

    # --- records ----------------------------------------------------------------------------------

    def _records(self) -> Iterator[str]:
        """G3: what was acknowledged is there, a point once for readers; G6: repeats of rows are counted."""
        for account in self.accounts.values():
            run = self.run_of(account)
            remote = self.remotes.get(run)
            for kind, values in account.acknowledged.items():
                there: Counter[int] = remote.counts[kind] if remote is not None else Counter()
                lost = [value for value in values if not there[value]]
                if lost:
                    shown = f"{len(lost)} of {len(values)} {kind} records, e.g. {lost[0]}"
                    yield f"G3: lost: {shown} of writer {account.writer} in {run or 'no Run'}"
        for run, remote in self.remotes.items():
            twice = [value for value, count in remote.counts["metrics"].items() if count > 1]
            if twice:
                yield f"G6: {len(twice)} points of {run} are there twice for readers, e.g. {twice[0]}"
            repeats = self.documents.get(run, {}).get("repeats", 0)
            again = sum(n - 1 for kind in ("data", "console") for n in remote.counts[kind].values())
            if again > repeats:
                yield f"G6: {again} rows of {run} are there again, {repeats} are counted"

    def _strangers(self) -> Iterator[str]:
        """Nothing is there that nobody logged, or in another Run than it was meant for."""
        for run, remote in self.remotes.items():
            for kind, values in remote.counts.items():
                found = {value: self.accounts.get(writer_of(value)) for value in values}
                never = [value for value, who in found.items() if who is None or value not in who.tried[kind]]
                if never:
                    yield f"{len(never)} {kind} records in {run} were never logged, e.g. {never[0]}"
                wrong = {who.writer for who in found.values() if who and self.run_of(who) not in ("", run)}
                if wrong:
                    yield f"{kind} records of writers {sorted(wrong)} are in {run}, which they did not open"

    def run_of(self, account: Account) -> str:
        """The Run that has its lease: a provisional one may have got another id than was asked for (R8)."""
        said = account.run or self.accounts.get(process_of(account.writer), account).run
        found = self._by_lease.get(self._lease_of(account.writer), said)
        return found if found.startswith(said) else said

    def _tags(self) -> Iterator[str]:
        """G9: no tag is lost, unless there was no room for the entry when its process died."""
        for account in self.accounts.values():
            remote = self.remotes.get(self.run_of(account))
            actor = self.actors.get(process_of(account.writer))
            if remote is None or actor is None or len(remote.tags) >= 50:
                continue
            if self.trouble.was_full(actor.began_at, actor.died_at or float("inf")):
                continue
            for tag in account.tags:
                if tag not in remote.tags:
                    yield f"G9: tag {tag} of writer {account.writer} is not in {account.run}: {remote.tags}"

    def _series(self) -> Iterator[str]:
        """G10: two processes whose leases are alive at one time never share a series."""
        for run, remote in self.remotes.items():
            leases = {lease["lease_id"]: lease for lease in self.documents[run]["leases"]}
            for name, points in remote.metrics.items():
                if name.partition("/")[0] != "loss":
                    continue
                writers = {writer_of(int(value)) for _, _, value in points}
                held = {lease for lease in map(self._lease_of, writers) if lease in leases}
                for one, other in combinations(sorted(held), 2):
                    if _overlap(leases[one], leases[other]):
                        yield f"G10: series {name} of {run} is shared by leases {one} and {other}"

    def _lease_of(self, writer: int) -> str:
        account = self.accounts.get(writer)
        parent = self.accounts.get(process_of(writer))
        return (account.lease if account else "") or (parent.lease if parent else "")

    # --- ends -------------------------------------------------------------------------------------

    def _statuses(self) -> Iterator[str]:
        """G7: the status is one that the oracle allows; G1: no end while an owner is at work."""
        for run in {self.run_of(account) for account in self.accounts.values()} - {"", *self.remotes}:
            yield f"Run {run} was opened and is not at the server"
        for run, document in self.documents.items():
            remote = self.remotes.get(run)
            if remote is None:
                yield f"{run} is {document['status']} here and not at the server"
                continue
            if document["status"] != remote.status:
                yield f"{run} is {document['status']} here and {remote.status} at the server"
            members = [self._member(lease) for lease in document["leases"]]
            members = [member for member in members if member.lease["role"] in ("owner", "worker")]
            gone = next((job.launcher_died_at for job in self.play.jobs if job.run == run), None)
            right = allowed(members, self.trouble, gone)
            self._choices[len(right)] += 1
            if remote.status not in right:
                why = f"{document['verdict']}, {[self._shown(member) for member in members]}"
                yield f"G7: {run} is {remote.status}, the oracle says {sorted(right)}: {why}"
            if gone is None:
                yield from self._ended_at_work(run, remote, members)

    def _ended_at_work(self, run: str, remote: Remote, members: list[Member]) -> Iterator[str]:
        for member in members:
            account, actor = member.account, member.actor
            if account is None or actor is None or account.opened is None or actor.died_at is None:
                continue
            stopped = [at for at, _ in actor.sent]
            until = min([account.ending or actor.died_at, actor.died_at, *stopped])
            if member.lease["role"] != "owner" or not member.lease["granted_at"]:
                continue
            since = max(account.opened, member.lease["granted_at"] / 1000) + 0.1
            if any(since < at < until for at in self._told_at[remote.id]):
                yield f"G1: {run} ended while its owner, writer {account.writer}, was at work"

    def _member(self, lease: dict[str, Any]) -> Member:
        found = [account for account in self.accounts.values() if account.lease == lease["lease_id"]]
        if not found:
            mute = [each for each in self.accounts.values() if each.pid == lease["pid"] and not each.lease]
            return Member(lease, None, self.actors.get(process_of(mute[0].writer)) if mute else None)
        return Member(lease, found[0], self.actors.get(process_of(found[0].writer)))

    def _shown(self, member: Member) -> str:
        account, actor, lease = member.account, member.actor, member.lease
        if account is None or actor is None:
            return f"({lease['role']} {lease['label']} epoch {lease['epoch']}, silent)"
        base = account.opened or 0.0
        sent = [(round(at - base, 2), number.name) for at, number in actor.sent]
        end = round(account.ending - base, 2) if account.ending else None
        died = round((actor.died_at or 0.0) - base, 2)
        return (
            f"({lease['role']} {lease['label']} epoch {lease['epoch']}, writer {account.writer}: opened at "
            f"{base:.2f}, {account.how}({account.code}) at {end}, signals {sent}, dead at {died}, "
            f"{lease['end_reason']})"
        )

    @cached_property
    def _told_at(self) -> dict[int, list[float]]:
        """When terminal statuses came to the server, by Run; each says itself since when it is one."""
        found: dict[int, list[float]] = defaultdict(list)
        for entry in self.play.served.server.requests():
            if entry["path"].endswith("/runs/status/update") and entry["body"]:
                body = json.loads(entry["body"])
                if body["status"] in TERMINAL:
                    found[body["runId"]].append(entry["at"])
        return found

    def _reports(self) -> Iterator[str]:
        """R10: one report of each end; again only if nobody heard the answer, or who did was killed."""
        reports: dict[int, Counter[str]] = defaultdict(Counter)
        for entry in self.play.served.server.requests():
            if not entry["path"].endswith("/runs/status/update") or not entry["body"]:
                continue
            body = json.loads(entry["body"])
            if body["status"] in TERMINAL:
                heard = entry["outcome"] == "answered" and entry["status"] == 200 and not entry["fault"]
                reports[body["runId"]]["heard" if heard else "unheard"] += 1
        kills = sum(self.play.done[kind] for kind in ("kill_coordinator", "fill_disk"))
        again = 0
        for remote in self.remotes.values():
            again += max(0, reports[remote.id]["heard"] - len(remote.ends))
            if not remote.ends:
                yield f"{remote.run} has no end at the server"
        if again > kills:
            yield f"R10: {again} reports came again after an answer, {kills} coordinators were killed"

    def _deaths(self) -> Iterator[str]:
        """Nobody died but by what it was told or what was sent to it."""
        for writer, actor in self.actors.items():
            account = self.accounts.get(writer)
            if account is None or actor.sent or account.refused or account.ending is not None:
                continue
            yield f"writer {writer} died by itself: {actor.script.stderr[-600:]}"

    # --- what the server noticed ------------------------------------------------------------------

    def _defects(self) -> Iterator[str]:
        waivers = Waivers(self)
        for defect in self.play.served.server.check():
            if not waivers.cover(defect):
                yield f"server: {defect.kind} run {defect.run_id}: {defect.text} {defect.names}"


def _numbers(texts: Iterator[str] | Any) -> Counter[int]:
    found = (NUMBER.search(text) for text in texts)
    return Counter(int(match[1]) for match in found if match)


def _overlap(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two leases were alive at one time; times are those of the document, milliseconds."""
    starts = max(one["granted_at"] or 0, other["granted_at"] or 0)
    return bool(starts < min(one["ended_at"] or starts, other["ended_at"] or starts))
