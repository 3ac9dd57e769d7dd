"""Who a process of the play is, and what its program does: open, log, perhaps fork, end somehow.

`main` runs in the process itself. Every record has a value that nobody else has, and is logged at the step of
that number: two writers never mean the same point.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import pluto_dist as pluto
from pluto_dist.client.offline import DisabledRun
from pluto_dist.errors import PlutoDistError
from tests.chaos.ledger import Kind, Ledger

End = Literal["finish", "code", "close", "raise", "exit", "at_exit", "hard", "exec"]
OWNER_ENDS: tuple[End, ...] = (
    "finish",
    "finish",
    "at_exit",
    "code",
    "close",
    "raise",
    "exit",
    "hard",
    "exec",
)
JOB_ENDS: tuple[End, ...] = (
    "finish",
    "finish",
    "finish",
    "at_exit",
    "raise",
    "exit",
    "hard",
    "close",
    "exec",
)
SIDE_ENDS: tuple[End, ...] = ("finish", "close", "raise", "exit", "at_exit", "hard")

WRITERS_EACH = 10  # a process, its forked children, and the program that it execs
EXEC_OFFSET = 9
OVER = "over"  # a file in the working folder: the play is over, come to your end
ATTACH_S = 10.0
LEDGERS = "PD_CHAOS_LEDGERS"


@dataclass(frozen=True)
class Part:
    """One process.

    Attributes:
        writer: number of its ledger.
        verb: `init`, `resume` (`init(resume=True)`) or `attach`.
        run: id of the Run that it means.
        label: of a side.
        end: how it ends, if nobody kills it before.
    """

    writer: int
    verb: Literal["init", "resume", "attach"]
    run: str
    label: str
    end: End
    seconds: float
    pause_s: float
    code: int = 0
    children: int = 0

    def program(self) -> str:
        """The script to start it with."""
        return f"from tests.chaos.cast import main\nmain({json.dumps(json.dumps(asdict(self)))})\n"


def main(text: str) -> None:
    """The program of a process."""
    part = Part(**json.loads(text))
    ledger = Ledger(Path(os.environ[LEDGERS]), part.writer)
    ledger.say("begins", pid=os.getpid())
    try:
        run = _open(part)
        run_id = run.run_id  # of a rank that went on without its grant this waits for it
    except PlutoDistError as error:
        ledger.say("refused", error=type(error).__name__, message=str(error)[:300])
        return
    if not isinstance(run, pluto.Run):  # R13: no lease could be made, and the user was told
        ledger.say("refused", error="disabled")
        return
    ledger.say("opened", lease=run.lease_id, run=run_id)
    _work(part, run, ledger)
    ledger.say("ends", how=part.end, code=part.code)
    _end(part, run, ledger)


def _open(part: Part) -> pluto.Run | DisabledRun:
    if part.verb == "attach":
        return pluto.attach(part.run, label=part.label, timeout_s=ATTACH_S)
    return pluto.init(run_id=part.run, resume=part.verb == "resume", tags=[f"by-{part.writer}"])


def _work(part: Part, run: pluto.Run, ledger: Ledger) -> None:
    until = time.monotonic() + part.seconds
    tag = f"t{part.writer}"
    run.add_tags(tag)
    ledger.say("tagged", tag=tag)
    forks = 0
    while time.monotonic() < until and not Path(OVER).exists():
        _log(run, ledger, "metrics")
        _log(run, ledger, "data")
        _log(run, ledger, "console")
        if forks < part.children:
            forks += 1
            _fork(part, run, ledger, part.writer + forks)
        time.sleep(part.pause_s)
    _log(run, ledger, "metrics")


def _log(run: pluto.Run, ledger: Ledger, kind: Kind) -> None:
    """One record, with the line before it and, if nothing was dropped meanwhile, the line after it."""
    value = ledger.value()
    files = run._lease.files  # drops are counted there; nothing public says so at once
    before = files.dropped
    ledger.say("tries", kind=kind, value=value)
    match kind:
        case "metrics":
            run.log({"loss": float(value), f"own{ledger.writer}": float(value)}, value)
        case "data":
            run.log({"note": f"value {value}"}, value)
        case "console":
            print(f"value {value}", flush=True)  # what the capture is to see
    if files.dropped == before:
        ledger.say("logged", kind=kind, value=value)


def _fork(part: Part, run: pluto.Run, ledger: Ledger, writer: int) -> None:
    ledger.say("forks", writer=writer)
    if os.fork():
        return
    mine = Ledger(Path(os.environ[LEDGERS]), writer)
    mine.say("begins", pid=os.getpid())
    for _ in range(20):
        _log(run, mine, "metrics")
        _log(run, mine, "data")
        time.sleep(part.pause_s)
    if writer % 2:
        os.kill(os.getpid(), signal.SIGKILL)
    os._exit(3)  # a child's end says nothing about the Run


def _end(part: Part, run: pluto.Run, ledger: Ledger) -> None:
    match part.end:
        case "finish":
            run.finish()
        case "code":
            run.finish(code=part.code)
        case "close":
            run.close()
        case "raise":
            raise RuntimeError("as it was to be")
        case "exit":
            sys.exit(part.code)
        case "at_exit":
            return
        case "hard":
            os._exit(7)
        case "exec":
            _exec(part)
    ledger.say("ended")


def _exec(part: Part) -> None:
    """Another program in the same process: it takes the Run up again and finishes it."""
    verb: Literal["init", "resume"] = "init" if "RANK" in os.environ else "resume"
    other = replace(part, writer=part.writer + EXEC_OFFSET, verb=verb, end="finish", seconds=0.5, children=0)
    os.execv(sys.executable, [sys.executable, "-P", "-c", other.program()])


def process_of(writer: int) -> int:
    """The writer that the process of a forked child, or of an exec'd program, began as."""
    return writer - writer % WRITERS_EACH
