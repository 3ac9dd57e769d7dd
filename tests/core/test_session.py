"""When a process speaks with its coordinator."""

from __future__ import annotations

import itertools

from pluto_dist.core.rules.session import FOUND_S, Session
from pluto_dist.core.values.messages import View

HEARTBEAT_S = 5.0


def view(folded: int = 0) -> View:
    return View(generation=1, lease_id="lease", request=0, state="active", folded=folded)


def test_an_answer_puts_the_next_word_off_by_a_heartbeat() -> None:
    session = Session(HEARTBEAT_S, 0.0)
    assert session.next(0.0).send
    session.take_view(view(), 0.1)
    assert not session.next(0.2).send
    assert session.deadline() == 0.1 + HEARTBEAT_S


def test_news_put_no_heartbeat_off() -> None:
    """A coordinator that has something to tell all the time still hears that the process lives."""
    session = Session(HEARTBEAT_S, 0.0)
    session.next(0.0)
    session.take_view(view(), 0.1)
    sent = 0
    for tenth in range(10, 300):
        sent += session.next(tenth / 10).send
        session.take_view(view(), tenth / 10 + 0.05)
    assert sent == 30 / HEARTBEAT_S - 1


def test_an_older_answer_does_not_put_off_what_is_due_now() -> None:
    """Somebody waits for a question that has not been sent yet; the answer on its way knows nothing of it."""
    session = Session(HEARTBEAT_S, 0.0)
    assert session.next(0.0).send
    session.speak(0.1)
    session.take_view(view(), 0.1)
    assert session.next(0.1).send


def test_entries_that_are_not_taken_are_told_again_at_once() -> None:
    session = Session(HEARTBEAT_S, 0.0)
    session.wrote(2, 0.0)
    assert session.next(0.0).send
    session.take_view(view(folded=1), 0.05)
    assert session.deadline() < 0.2


def test_a_broken_connection_is_not_waited_out() -> None:
    """G12: a coordinator that is killed is missed at once, not at the next heartbeat."""
    session = Session(HEARTBEAT_S, 0.0)
    assert session.next(0.0).send
    session.take_view(view(), 0.1)
    session.lost(2.0)
    assert session.deadline() <= 2.0
    todo = session.next(2.0)
    assert todo.send
    assert todo.launch


def test_a_coordinator_that_dies_at_each_start_is_started_ever_more_rarely() -> None:
    session = Session(HEARTBEAT_S, 0.0, listening=False)
    launches, now = [], 0.0
    while now < 20.0:
        if session.next(now).launch:
            launches.append(now)
            session.lost(now)
        now += 0.05
    pauses = [later - earlier for earlier, later in itertools.pairwise(launches)]
    assert len(launches) <= 7
    assert pauses == sorted(pauses)


def test_one_that_was_silent_for_long_is_missed_at_once_when_it_is_gone() -> None:
    """G12: it listened all the time, so no start has failed that a later one would have to wait for."""
    session = Session(HEARTBEAT_S, 0.0)
    session.next(0.0)
    session.take_view(view(), 0.1)
    now = HEARTBEAT_S
    while now < 100.0:
        if session.next(now).launch:
            session.found(now)
        now += 0.05
    session.lost(now)
    assert session.next(now).launch


def test_one_that_listens_and_is_silent_is_looked_for_at_a_steady_pace() -> None:
    """G12: if it went without a word of the kernel's, that is found out within the same time."""
    session = Session(HEARTBEAT_S, 0.0)
    session.next(0.0)
    looks = []
    for tenth in range(1, 600):
        if session.next(tenth / 10).launch:
            session.found(tenth / 10)
            looks.append(tenth / 10)
    pauses = [later - earlier for earlier, later in itertools.pairwise(looks)]
    assert max(pauses) <= FOUND_S + 0.11
    assert len(looks) <= 31
