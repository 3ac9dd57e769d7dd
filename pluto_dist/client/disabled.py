"""A Run that goes nowhere: `mode="disabled"`, or a machine on which nothing can be kept (R13).

It costs nothing and never fails; scripts need no `if`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Literal, Self


class DisabledRun:
    """Has the names of `Run`; every call is a no-op."""

    id: int | None = None
    display_id: str | None = None
    url = ""
    status = "RUNNING"
    resumed = False
    fork_run_id: int | None = None
    fork_step: int | None = None
    role: Literal["owner", "worker", "side"] = "owner"
    label = "disabled"
    is_side = False
    lease_id = ""
    epoch = 0
    cancelled = False
    preempted = False
    ended = True

    def __init__(
        self, project: str, name: str, run_id: str, config: dict[str, Any], tags: Iterable[str]
    ) -> None:
        self.project = project
        self.name = name
        self.run_id = run_id
        self.config = config
        self.tags = list(tags)

    def log(self, data: Mapping[str, Any], step: int | None = None, timestamp: float | None = None) -> None:
        """Does nothing."""

    def add_tags(self, tags: str | Iterable[str]) -> None:
        """Does nothing."""

    def remove_tags(self, tags: str | Iterable[str]) -> None:
        """Does nothing."""

    def update_config(self, config: Mapping[str, Any]) -> None:
        """Does nothing."""

    def on_preempt(self, callback: Callable[[], object]) -> None:
        """Does nothing."""

    def finish(self, code: int | None = None, timeout_s: float | None = None) -> None:
        """Does nothing."""

    def close(self, timeout_s: float | None = None) -> None:
        """Does nothing."""

    def take_evidence(self, error: BaseException | None) -> None:
        """Does nothing."""

    def flush(self, timeout_s: float = 30.0) -> None:
        """Does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Does nothing."""
