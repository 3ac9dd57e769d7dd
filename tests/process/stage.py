"""What the scripts of the process tests import: lines to the test and from it, a ledger of what was logged.

The ledger is the scripts' own account of every `log()` that returned: one line each, written after it. What
is in the ledger and not in the store was lost.

Where all is well nobody waits out a bound, however slow the machine is: the client's own are as good as
endless here, as the settings' are (`harness.PATIENT`). A test of a bound sets it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping

import pluto_dist as pluto
from pluto_dist.client import lease as _held
from pluto_dist.client import opening as _opening
from pluto_dist.client import run as _properties
from pluto_dist.host import boot as _boot
from tests.patience import NEVER_S
from tests.process import coordinator_boot

_LEDGER = os.environ["PD_TEST_LEDGER"]

_held.UNANSWERED_S = _opening.RESTART_GRANT_S = _properties.ASK_S = _properties.GRANT_S = NEVER_S
if coordinator_boot.CONSTANTS in os.environ:
    os.environ[coordinator_boot.REAL] = os.environ.get(coordinator_boot.REAL) or _boot.__file__
    _boot.__file__ = coordinator_boot.__file__


def tell(*words: object) -> None:
    """One line to the test."""
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def tell_json(word: str, value: object) -> None:
    """A word and a value, in one line to the test."""
    tell(word, json.dumps(value))


def hear() -> str:
    """Waits for a line from the test; "" when the test has closed the pipe."""
    return sys.stdin.readline().strip()


def log(run: pluto.Run, data: Mapping[str, object], step: int | None = None) -> None:
    """Logs, and then writes into the ledger that it did."""
    run.log(data, step)
    account(run.lease_id, data, step)


def account(lease_id: str, data: Mapping[str, object], step: int | None) -> None:
    """A returned `log()`."""
    line = json.dumps([lease_id, step, dict(data)]).encode() + b"\n"
    fd = os.open(_LEDGER, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, line)
    finally:
        os.close(fd)


def facts(run: pluto.Run) -> dict[str, object]:
    """What the handle says about itself."""
    names = ("id", "display_id", "run_id", "name", "project", "role", "label", "lease_id", "epoch")
    return {name: getattr(run, name) for name in names} | {"pid": os.getpid(), "resumed": run.resumed}
