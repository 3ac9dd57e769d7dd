"""Which final statuses the design allows for a Run, from what its processes really did (R5, R6, R9, R10).

It looks at ledgers, signals and times of death; of the document it takes only who had which lease in which
epoch. Where the design, or what could be seen in time, leaves it open, several statuses are allowed:

- a process was killed inside of `init()`, or a signal came while it was ending anyway
- a signal came before the hooks were there: the zombie's signal may be seen or not (stop or failure)
- `exec`: another program may or may not have taken the word in time
- a failure and a request to stop closer together than a death is noticed, longer without a coordinator
- a worker's failure close to the end of the drain deadline
- the disk was full while a process ended: its last words may not have found room
- the launcher was killed and its ranks outlived it for about 35 s
"""

from __future__ import annotations

import signal
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from typing import Any

from tests.chaos.actors import Actor
from tests.chaos.ledger import Account

ANY = frozenset({"COMPLETED", "FAILED", "TERMINATED"})
DRAIN_S = 10.0
CLOSE_BY_S = 1.5
NOTICED_S = 3.0
LAUNCHER_GONE_S = 30.0
STOP_CODES = (129, 130, 143)
MOST_OPEN = 6  # more open questions than this allow anything

Span = tuple[float, float]


@dataclass(frozen=True)
class Fact:
    """Something that may speak against COMPLETED, at some time within a span.

    Attributes:
        kinds: what it may be: `stop`, `fail`, or `none`.
    """

    first: float
    last: float
    kinds: frozenset[str]


@dataclass(frozen=True)
class Member:
    """An owner or worker: its lease, what it said, and its process; None for what nobody knows."""

    lease: dict[str, Any]
    account: Account | None
    actor: Actor | None

    @property
    def silent(self) -> bool:
        """Whether nothing is known of it that could be relied on."""
        return self.account is None or self.actor is None or self.account.opened is None


@dataclass(frozen=True)
class Trouble:
    """Spans of time in which the world was not as it should be."""

    absent: tuple[Span, ...]
    full: tuple[Span, ...]

    def nobody_looked(self, first: float, last: float) -> bool:
        return _touches(self.absent, first - NOTICED_S, last + NOTICED_S)

    def was_full(self, first: float, last: float) -> bool:
        return _touches(self.full, first - 1.0, last + 1.0)


def allowed(members: Iterable[Member], trouble: Trouble, launcher_died_at: float | None) -> frozenset[str]:
    """Statuses that are right for a Run with these owners and workers of all epochs."""
    everybody = list(members)
    newest = max((member.lease["epoch"] for member in everybody), default=0)
    return _of_epoch(everybody, newest, trouble, launcher_died_at)


def _of_epoch(
    everybody: list[Member], epoch: int, trouble: Trouble, launcher_died_at: float | None
) -> frozenset[str]:
    members = [member for member in everybody if member.lease["epoch"] == epoch]
    members = [member for member in members if member.lease["end_reason"] != "superseded"]
    owner = next((member for member in members if member.lease["role"] == "owner"), None)
    if owner is None or any(member.silent for member in members):
        return ANY
    if any(_words_lost(member, trouble) for member in members):
        return ANY
    account = _said(owner)
    facts = [fact for member in members for fact in facts_of(member)]
    if account.ending is not None and account.how == "code":
        ended = _of_code(account.code)
        return frozenset({ended}) if account.ended else frozenset({ended}) | _decide(facts, None, trouble)
    finished_at = account.ending if account.how in ("finish", "at_exit") else None
    result = _decide(facts, finished_at, trouble)
    if account.how == "close" and account.ending is not None:
        before = _before(everybody, epoch, trouble, launcher_died_at)
        sure = account.ended is not None
        result = before | {"TERMINATED"} if sure else result | before | {"TERMINATED"}
    outlived = launcher_died_at is not None and any(
        _died_at(member) > launcher_died_at + LAUNCHER_GONE_S for member in members
    )
    return result | {"FAILED"} if outlived else result


def _before(
    everybody: list[Member], epoch: int, trouble: Trouble, launcher_died_at: float | None
) -> frozenset[str]:
    """A Run that was taken up again and closed is as it was before."""
    earlier = [each.lease["epoch"] for each in everybody if each.lease["epoch"] < epoch]
    return _of_epoch(everybody, max(earlier), trouble, launcher_died_at) if earlier else frozenset()


def facts_of(member: Member) -> list[Fact]:
    """What a member's signals and its end may mean."""
    account, actor = _said(member), _done(member)
    died_at = _died_at(member)
    facts = []
    for at, number in actor.sent:
        if number not in _MEANING or at > died_at or not _in_its_time(account, actor, at):
            continue
        if account.ended is not None and at > account.ended:
            continue
        kinds = _MEANING[number]
        if number != signal.SIGKILL and account.opened is not None and at < account.opened + 0.2:
            kinds |= {"fail", "none"}
        if account.ending is not None and at > account.ending - 0.3:
            kinds |= {"none", "fail"}  # after `exec` it was for the other program, if that was there yet
        facts.append(Fact(at, at if number == signal.SIGKILL else died_at, kinds))
    own = _own_end(account)
    if own and account.ending is not None:
        hit = any(at < account.ending + 0.5 for at, number in actor.sent if number in _MEANING)
        facts.append(Fact(account.ending, died_at, own | {"none"} if hit else own))
    return facts


_MEANING = {
    signal.SIGKILL: frozenset({"fail"}),
    signal.SIGTERM: frozenset({"stop"}),
    signal.SIGINT: frozenset({"stop"}),
}


def _own_end(account: Account) -> frozenset[str]:
    match account.how:
        case "raise" | "hard":
            return frozenset({"fail"})
        case "exit" if account.code:
            return frozenset({"stop" if account.code in STOP_CODES else "fail"})
        case "exec":
            return frozenset({"fail", "none"})
    return frozenset()


def _in_its_time(account: Account, actor: Actor, at: float) -> bool:
    """Whether a signal came to this program and not to the one before it in the same process."""
    if account.writer != actor.part.writer:
        return account.opened is not None and at >= account.opened - 1.0
    return True


def _decide(facts: list[Fact], finished_at: float | None, trouble: Trouble) -> frozenset[str]:
    if finished_at is not None:
        facts = [fact for fact in facts if fact.first < finished_at + DRAIN_S + NOTICED_S]
        near = finished_at + DRAIN_S - NOTICED_S
        facts = [
            Fact(fact.first, fact.last, fact.kinds | {"none"}) if fact.last > near else fact for fact in facts
        ]
    open_ones = [fact for fact in facts if len(fact.kinds) > 1]
    if len(open_ones) > MOST_OPEN:
        return ANY
    result: set[str] = set()
    for kinds in product(*(sorted(fact.kinds) for fact in facts)):
        result |= _of([(fact, kind) for fact, kind in zip(facts, kinds, strict=True)], trouble)
    return frozenset(result)


def _of(found: list[tuple[Fact, str]], trouble: Trouble) -> set[str]:
    stops = [fact for fact, kind in found if kind == "stop"]
    failures = [fact for fact, kind in found if kind == "fail"]
    if not stops:
        return {"FAILED"} if failures else {"COMPLETED"}
    if not failures:
        return {"TERMINATED"}
    stopped_first, stopped_last = min(fact.first for fact in stops), min(fact.last for fact in stops)
    if any(fact.last < stopped_first for fact in failures):
        return {"FAILED"}
    after = all(fact.first > stopped_last + CLOSE_BY_S for fact in failures)
    looked = not trouble.nobody_looked(stopped_first, max(fact.last for fact in failures))
    return {"TERMINATED"} if after and looked else {"FAILED", "TERMINATED"}


def _words_lost(member: Member, trouble: Trouble) -> bool:
    account = _said(member)
    begins = min([at for at, _ in _done(member).sent] + [account.ending or _died_at(member)])
    return trouble.was_full(begins, _died_at(member))


def _of_code(code: int) -> str:
    if code == 0:
        return "COMPLETED"
    return "TERMINATED" if code in (*STOP_CODES, 2, 15) else "FAILED"


def _said(member: Member) -> Account:
    assert member.account is not None
    return member.account


def _done(member: Member) -> Actor:
    assert member.actor is not None
    return member.actor


def _died_at(member: Member) -> float:
    return _done(member).died_at or float("inf")


def _touches(spans: Iterable[Span], first: float, last: float) -> bool:
    return any(start <= last and end >= first for start, end in spans)
