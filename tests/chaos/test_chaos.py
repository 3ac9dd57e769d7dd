"""Half a minute of chaos with real processes, and everything adds up."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from tests.chaos.checks import Checks
from tests.chaos.driver import played
from tests.chaos.schedule import make_schedule

CHAOS_S = 20.0  # and as long again until everybody is gone and the coordinator rests


@pytest.mark.process
@pytest.mark.timeout(1500)  # of which it takes 40 s where nobody else wants the cores
def test_nothing_is_lost_and_every_end_is_true(
    record_property: Callable[[str, object], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """G1, G3, G5, G6, G7, G9, G10, G12, R10: see `checks`; the seed is printed."""
    seed = random.randrange(1 << 32)
    with played(seed, CHAOS_S) as play:
        checks = Checks(play)
        findings = checks.findings()
        told = f"seed {seed}, {dict(sorted(play.done.items()))}, {checks.counts()}"
        replay = f"python -m tests.chaos --for {CHAOS_S:g} --seed {seed}"
        assert not findings, "\n".join([replay, *findings, play.served.report()])
    record_property("chaos", told)
    with capsys.disabled():
        print(f"\nchaos: {told}")


def test_a_seed_is_one_schedule() -> None:
    """What real processes make of it differs; what is done to them does not."""
    assert make_schedule(7, 60.0) == make_schedule(7, 60.0) != make_schedule(8, 60.0)
