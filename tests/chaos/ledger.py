"""What each process believes: a file of its own, one line before a deed and one after it.

A record is *tried* when the line before `log()` is written, and *acknowledged* when `log()` has returned and
reported no drop. Acknowledged ones must be there in the end, and nothing that was never tried (G3).
"""

from __future__ import annotations

import json
import os
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Kind = Literal["metrics", "data", "console"]
PER_WRITER = 100_000  # values of one writer; unique over all of them, so a value tells who wrote it


class Ledger:
    """The writing end; a forked child begins one of its own.

    Args:
        folder: where the ledgers of a play are.
        writer: number of the process, nobody else's.
    """

    def __init__(self, folder: Path, writer: int) -> None:
        self.writer = writer
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._fd = os.open(folder / f"{writer}.jsonl", flags, 0o600)
        self._next = writer * PER_WRITER

    def value(self) -> int:
        """A number that no other record has."""
        self._next += 1
        return self._next

    def say(self, what: str, **facts: Any) -> None:
        """One line; it is in the kernel when this returns."""
        os.write(self._fd, json.dumps([time.time(), what, facts]).encode() + b"\n")


@dataclass
class Account:
    """What one process said.

    Attributes:
        pid, lease, run: who it was; lease and run as its handle had them, "" if it got none.
        opened: when `init()` or `attach()` had returned, None if it never did.
        ending: when it began to end, and how; `ended`: when that call had returned.
        refused: class name of the error that `init()` or `attach()` raised.
        tried, acknowledged: values by kind, with the time.
        tags: tags that were added, as far as the call returned.
    """

    writer: int
    pid: int = 0
    lease: str = ""
    run: str = ""
    opened: float | None = None
    ending: float | None = None
    how: str = ""
    code: int = 0
    ended: float | None = None
    refused: str = ""
    tried: dict[Kind, dict[int, float]] = field(default_factory=lambda: defaultdict(dict))
    acknowledged: dict[Kind, dict[int, float]] = field(default_factory=lambda: defaultdict(dict))
    tags: list[str] = field(default_factory=list)
    children: list[int] = field(default_factory=list)
    last_at: float = 0.0

    def hear(self, at: float, what: str, facts: dict[str, Any]) -> None:
        """Takes one line."""
        self.last_at = at
        match what:
            case "begins":
                self.pid = facts["pid"]
            case "opened":
                self.opened, self.lease, self.run = at, facts["lease"], facts["run"]
            case "refused":
                self.refused = facts["error"]
            case "tries":
                self.tried[facts["kind"]][facts["value"]] = at
            case "logged":
                self.acknowledged[facts["kind"]][facts["value"]] = at
            case "tagged":
                self.tags.append(facts["tag"])
            case "forks":
                self.children.append(facts["writer"])
            case "ends":
                self.ending, self.how, self.code = at, facts["how"], facts["code"]
            case "ended":
                self.ended = at


def read_accounts(folder: Path) -> dict[int, Account]:
    """All accounts by writer; the last line of a killed process may be torn."""
    accounts = {}
    for path in folder.glob("*.jsonl"):
        account = accounts[int(path.stem)] = Account(int(path.stem))
        for line in path.read_bytes().split(b"\n")[:-1]:
            at, what, facts = json.loads(line)
            account.hear(at, what, facts)
    return accounts


def writer_of(value: int) -> int:
    """Who wrote a record."""
    return value // PER_WRITER
