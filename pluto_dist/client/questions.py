"""Questions to the coordinator that have no answer yet; numbers tell answers apart."""

from __future__ import annotations

from collections.abc import Callable

from pluto_dist.core.messages import Answer, Question, Refusal


class Questions:
    """One per link, used under its condition. All questions may be repeated."""

    def __init__(self) -> None:
        self._number = 0
        self._open: dict[int, Question] = {}
        self._answers: dict[int, Answer | Refusal] = {}

    def next_number(self) -> int:
        """A number that nothing else on this link has."""
        self._number += 1
        return self._number

    def put(self, make: Callable[[int], Question]) -> int:
        """A new question; returns its number."""
        number = self.next_number()
        self._open[number] = make(number)
        return number

    def open(self) -> list[Question]:
        """Those to send: the first time, or again, because a coordinator that died has forgotten them."""
        return list(self._open.values())

    def take(self, reply: Answer | Refusal) -> bool:
        """Keeps an answer; False if it belongs to no open question."""
        if self._open.pop(reply.request, None) is None:
            return False
        self._answers[reply.request] = reply
        return True

    def answer(self, number: int) -> Answer | Refusal | None:
        """The answer, once."""
        return self._answers.pop(number, None)

    def give_up(self, number: int) -> None:
        """Nobody waits for it any more."""
        self._open.pop(number, None)
