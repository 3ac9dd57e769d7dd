"""A failing plan made smaller: processes, faults and accidents that it can do without are left out."""

from __future__ import annotations

from dataclasses import replace

from tests.simulation.plan import Plan, Rates
from tests.simulation.world import World


def shrink(plan: Plan, error: str) -> Plan:
    """The smallest plan found that fails in the same way."""
    kind = failure_kind(error)
    changed = True
    while changed:
        changed = False
        for smaller in _smaller(plan):
            if _fails_alike(smaller, kind):
                plan, changed = smaller, True
                break
    return plan


def failure_kind(error: str) -> str:
    """What a failure is called, without its numbers."""
    last = error.strip().splitlines()[-1].rpartition("Error: ")[2]
    return "".join(letter for letter in last if not letter.isdigit())[:40]


def _smaller(plan: Plan) -> list[Plan]:
    fewer = [plan.without_fault(number) for number in range(len(plan.faults))]
    fewer += [plan.without_actor(number) for number in range(len(plan.actors)) if len(plan.actors) > 1]
    if plan.rates != Rates():
        fewer.append(replace(plan, rates=Rates()))
        for name in Rates.__dataclass_fields__:
            if getattr(plan.rates, name):
                fewer.append(replace(plan, rates=replace(plan.rates, **{name: 0.0})))
    for number, actor in enumerate(plan.actors):
        plain = replace(actor, forks=False, streams=("metrics",))
        if plain != actor:
            actors = (*plan.actors[:number], plain, *plan.actors[number + 1 :])
            fewer.append(replace(plan, actors=actors))
    return fewer


def _fails_alike(plan: Plan, kind: str) -> bool:
    try:
        World(plan).run()
    except Exception as error:  # noqa: BLE001 # the same fault is looked for, whatever it is
        return failure_kind(
            f"{type(error).__module__}.{type(error).__qualname__}: {error}"
        ) == kind or kind in str(error)
    return False
