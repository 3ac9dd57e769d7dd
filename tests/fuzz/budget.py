"""How much of each property is played: a little in the test suite, much by `python -m tests.fuzz`."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable
from typing import Any

import hypothesis
import msgspec
from hypothesis import HealthCheck

PLAYED: Counter[str] = Counter()

_SLOW_IS_FINE = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much)


class Target(msgspec.Struct, frozen=True):
    """One property. `examples` are those of an ordinary test run."""

    name: str
    check: Callable[..., None]
    given: dict[str, Any]
    examples: int

    def test(self, examples: int, *, remember: bool = True) -> Callable[[], None]:
        """The property as a test of so many examples."""
        kept = {} if remember else {"database": None}
        chosen = hypothesis.settings(
            max_examples=examples,
            deadline=None,
            print_blob=True,
            report_multiple_bugs=False,
            suppress_health_check=_SLOW_IS_FINE,
            **kept,
        )
        test: Callable[[], None] = chosen(hypothesis.given(**self.given)(self.check))
        return test


TARGETS: list[Target] = []


def fuzz(examples: int, **given: Any) -> Callable[[Callable[..., None]], Callable[[], None]]:
    """Makes a property of a function: its arguments are drawn from these strategies."""

    def wrap(check: Callable[..., None]) -> Callable[[], None]:
        name = f"{check.__module__.rpartition('.')[2]}.{check.__name__}"

        @functools.wraps(check)
        def counted(**drawn: Any) -> None:
            PLAYED[name] += 1
            check(**drawn)

        target = Target(name, counted, given, examples)
        TARGETS.append(target)
        return target.test(examples)

    return wrap
