"""Fixed histories of several nodes on a cluster store, one or two of each plan.

New ones are played by `python -m tests.simulation.nodes --for 600`.
"""

from __future__ import annotations

import pytest

from tests.simulation.nodes import PLANS, attempt

# 4: a Run that was taken up again and ended without the store was never told to the others.
# 859790743: a node that reported alone left out what another one had told before.
# 42100030: an item of a process that died while the store was away was given to nobody.
# 41100013: loops were told the end while items of their own node waited for numbers.
# 859790535, 859790752: a node with a new lease spoke as the seat that another node had taken meanwhile.
SEEDS = (
    *enumerate(PLANS, 1), (4, "take_up_again"), *((seed, "owner_comes_last") for seed in (1, 2)),
    (859790535, ""), (859790752, ""), (859790743, ""), (41100013, ""), (42100030, ""),
    (69518978, ""), (413928160, ""), (413928170, ""),
)  # fmt: skip


@pytest.mark.parametrize(("seed", "plan"), SEEDS)
def test_fixed_histories_keep_every_guarantee(seed: int, plan: str) -> None:
    """G2, G3, G7, G9."""
    error = attempt(seed, plan)
    assert error is None, f"History({seed}, print, {plan!r}).run(): {error}"


@pytest.mark.parametrize(("seed", "plan"), [*enumerate(PLANS, 1), (3, "owner_comes_last")])
def test_fixed_histories_without_a_server(seed: int, plan: str) -> None:
    """G2, G3, G7, G9, R12: what is in the stores of all nodes is one Run, with one end."""
    error = attempt(seed, plan, local=True)
    assert error is None, f"LocalHistory({seed}, print, {plan!r}).run(): {error}"
