"""What happens when: a list of actions that follows from a seed alone.

An action names no process, because nobody knows beforehand who is alive: it carries a number with which the
driver picks one of those that are.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Literal

from tests.chaos.cast import JOB_ENDS, OWNER_ENDS, SIDE_ENDS, End

Kind = Literal[
    "alone", "job", "side", "resume",
    "kill", "terminate", "interrupt", "freeze", "kill_launcher",
    "kill_coordinator", "freeze_coordinator", "terminate_coordinator",
    "server_fault", "server_heals", "freeze_server", "fill_disk",
]  # fmt: skip

COMERS: tuple[tuple[Kind, int], ...] = (("alone", 4), ("job", 5), ("side", 6), ("resume", 4))
FAULTS: tuple[tuple[Kind, int], ...] = (
    ("kill", 6), ("terminate", 5), ("interrupt", 3), ("freeze", 5), ("kill_launcher", 1),
    ("kill_coordinator", 7), ("freeze_coordinator", 3), ("terminate_coordinator", 2),
    ("server_fault", 12), ("server_heals", 6), ("freeze_server", 2), ("fill_disk", 2),
)  # fmt: skip
COMES_EVERY_S = 1.4
FAULT_EVERY_S = 0.7


@dataclass(frozen=True)
class Who:
    """What a process that comes is to be like.

    Attributes:
        seconds: how long it logs.
        pause_s: between two records.
        code: of `finish(code=…)` or of its exit.
        children: how many forked children it has.
    """

    end: End
    seconds: float
    pause_s: float
    code: int
    children: int


@dataclass(frozen=True)
class Action:
    """One thing to do.

    Attributes:
        number: picks whom it is about.
        seconds: how long a fault lasts.
        who: who comes: one, or all ranks of a job.
        restarts: of a job.
        fault: a knob of the server, see `tests.pluto_server.faults`.
    """

    at: float
    kind: Kind
    number: int
    seconds: float = 0.0
    who: tuple[Who, ...] = ()
    restarts: int = 0
    fault: dict[str, object] = field(default_factory=dict)


def make_schedule(seed: int, seconds: float) -> list[Action]:
    """The actions of so many seconds, by time."""
    dice = Random(f"chaos {seed}")
    actions = [_comer(dice, "alone", 0.0), _comer(dice, "job", 0.1)]
    at = 0.0
    while (at := at + dice.expovariate(1 / COMES_EVERY_S)) < seconds:
        actions.append(_comer(dice, _pick(dice, COMERS), at))
    at = 1.0
    while (at := at + dice.expovariate(1 / FAULT_EVERY_S)) < seconds:
        actions.append(_fault(dice, _pick(dice, FAULTS), at))
    return sorted(actions, key=lambda action: action.at)


def _pick(dice: Random, table: tuple[tuple[Kind, int], ...]) -> Kind:
    return dice.choices([kind for kind, _ in table], [weight for _, weight in table])[0]


def _comer(dice: Random, kind: Kind, at: float) -> Action:
    ends = {"side": SIDE_ENDS, "job": JOB_ENDS}.get(kind, OWNER_ENDS)
    count = dice.choice((2, 2, 3)) if kind == "job" else 1
    together = dice.random() < 0.6
    seconds, end = dice.uniform(0.3, 7.0), dice.choice(ends)
    who = tuple(
        Who(
            end=end if together else dice.choice(ends),
            seconds=seconds + (0.0 if together else dice.uniform(0.0, 2.0)),
            pause_s=dice.choice((0.005, 0.02, 0.1)),
            code=dice.choice((0, 1, 2, 143)),
            children=dice.choice((0, 0, 0, 1, 2)),
        )
        for _ in range(count)
    )
    restarts = dice.choice((0, 0, 1, 2)) if kind == "job" else 0
    return Action(at, kind, dice.randrange(1 << 30), who=who, restarts=restarts)


def _fault(dice: Random, kind: Kind, at: float) -> Action:
    fault = server_fault(dice) if kind == "server_fault" else {}
    return Action(at, kind, dice.randrange(1 << 30), seconds=dice.choice((0.2, 1.0, 3.0)), fault=fault)


def server_fault(dice: Random) -> dict[str, object]:
    """One knob, somewhere, turned somehow."""
    kind = dice.choice(("status", "status", "reset", "truncate", "database_error", "latency"))
    fields: dict[str, object] = {"kind": kind, "service": dice.choice(("api", "ingest", "py"))}
    fields["probability"] = dice.choice((0.1, 0.3, 0.6, 1.0))
    if kind == "status":
        fields["status"] = dice.choice((401, 408, 429, 500, 502, 503))
        fields["retry_after"] = dice.choice((None, 0.2))
    if kind == "reset" or fields.get("status") in (408, 500, 502, 503):  # a 401 or 429 comes before the work
        fields["when"] = dice.choice(("before", "after"))
    if kind == "latency":
        fields["seconds"] = dice.choice((0.05, 0.5))
    return fields
