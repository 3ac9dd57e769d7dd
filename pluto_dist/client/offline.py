"""Runs without a coordinator: disabled ones, and the Run as its own process knows it meanwhile.

`DisabledRun` is for `mode="disabled"`, and for a machine on which nothing can be kept (R13). It keeps what
its own process has set (config, tags, how it ended), so that scripts which read them back need no `if`. It
costs no file, socket or thread, and never fails: what it cannot take is left out.

`Claimed` is the Run by the process's own claim and changes, while no coordinator can be had. Training reads
`run.run_id` or `run.config` in its first lines and must not end there because a disk is full (G4). It is no
promise: a coordinator that comes later may find that the id is taken (R8), or another owner.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from pluto_dist.client.evidence import exit_code_of
from pluto_dist.client.interface import Hints, RunSettings, settings_of_run
from pluto_dist.core.rules.changes import add_tags, deep_merge, remove_tags
from pluto_dist.core.rules.participants import node_name
from pluto_dist.core.rules.verdict import status_of_code
from pluto_dist.core.values.ids import Role
from pluto_dist.core.values.lifecycle import Claim, ConfigUpdated, LifecycleEntry, TagsAdded, TagsRemoved
from pluto_dist.core.values.messages import RunView, View
from pluto_dist.errors import InvalidRecordError

if TYPE_CHECKING:
    from pluto_dist.host.settings import Settings


class DisabledRun(Hints):
    """A handle with the names of `Run`; nothing leaves the process."""

    id: int | None = None
    display_id: str | None = None
    url = ""
    resumed = False
    fork_run_id: int | None = None
    fork_step: int | None = None
    role: Literal["owner", "worker", "side"] = "owner"
    label = "disabled"
    lease_id = ""
    epoch = 0
    cancelled = False
    preempted = False
    next_step = 0

    def __init__(self, project: str, name: str, run_id: str, config: object, tags: Any) -> None:
        self.project = project
        self.name = name
        self.run_id = run_id
        self.status = "RUNNING"
        self.ended = False
        self._loaded: Settings | None = None
        self._config: dict[str, Any] = {}
        self._tags: tuple[str, ...] = ()
        self.update_config(config)
        if tags is not None:
            self.add_tags(tags)

    @property
    def config(self) -> dict[str, Any]:
        """A copy, with the changes of this process."""
        found: dict[str, Any] = json.loads(json.dumps(self._config))
        return found

    @property
    def tags(self) -> list[str]:
        """A copy, with the changes of this process."""
        return list(self._tags)

    @property
    def settings(self) -> RunSettings:
        """As `Run.settings`."""
        from pluto_dist.host.settings import Settings

        known = ("id", "display_id", "run_id", "name", "project", "status", "url")
        loaded = self._loaded or Settings(mode="disabled")
        return settings_of_run(loaded, **{name: getattr(self, name) for name in known})

    def take_settings(self, loaded: Settings) -> None:
        """Takes the settings that `init()` was given."""
        self._loaded = loaded

    def log(
        self,
        data: Mapping[str, Any],
        step: int | None = None,
        commit: bool | None = None,
        timestamp: float | None = None,
    ) -> None:
        """Does nothing."""

    def add_tags(self, tags: str | Iterable[str]) -> None:
        """Adds those that are tags."""
        with contextlib.suppress(InvalidRecordError):
            self._tags = add_tags(self._tags, tags)

    def remove_tags(self, tags: str | Iterable[str]) -> None:
        """Takes tags away."""
        with contextlib.suppress(InvalidRecordError):
            self._tags = remove_tags(self._tags, tags)

    def update_config(self, config: object) -> None:
        """Merges named values into the config."""
        from pluto_dist.client.values import snapshot

        with contextlib.suppress(InvalidRecordError):
            self._config = deep_merge(self._config, json.loads(snapshot(config).json))

    def on_preempt(self, callback: Callable[[], object]) -> None:
        """Does nothing."""

    def watch(self, module: Any, **how: Any) -> None:
        """Does nothing."""

    def alert(
        self, message: object = None, title: str = "pluto", level: str = "INFO", **more: object
    ) -> None:
        """Does nothing."""

    def checkpoint(self, path: Any, step: int, **info: Any) -> None:
        """Does nothing."""

    def checkpoints(
        self,
        *,
        group: str | None = None,  # noqa: ARG002 # as `Run`
        latest: bool = False,  # noqa: ARG002 # as `Run`
        timeout_s: float | None = None,  # noqa: ARG002 # as `Run`
    ) -> Iterator[Any]:
        """None."""
        return iter(())

    def publish(self, topic: str, payload: Any) -> None:
        """Does nothing."""

    def subscribe(
        self,
        topic: str,  # noqa: ARG002 # as `Run`
        *,
        group: str | None = None,  # noqa: ARG002 # as `Run`
        latest: bool = False,  # noqa: ARG002 # as `Run`
        timeout_s: float | None = None,  # noqa: ARG002 # as `Run`
    ) -> Iterator[Any]:
        """None."""
        return iter(())

    def finish(self, code: int | None = None, timeout_s: float | None = None) -> None:  # noqa: ARG002 # as `Run`
        """Ends the Run with the status that follows from the code alone."""
        if not self.ended:
            self.ended = True
            self.status = status_of_code(code) if isinstance(code, int) else "COMPLETED"

    def close(self, code: int | None = None, timeout_s: float | None = None) -> None:  # noqa: ARG002 # as `Run`
        """Ends the handle; the status stays as it is."""
        self.ended = True

    def flush(self, timeout_s: float = 30.0) -> None:
        """Does nothing."""

    def __repr__(self) -> str:
        return f"<pluto_dist.Run {self.run_id} disabled>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        code = exit_code_of(error.code) if isinstance(error, SystemExit) else 1
        self.finish(code if error is not None else None)


class Claimed:
    """A Run by the claim of one process.

    Args:
        lease_id: of the process.
        opened: its claim, for which `knows_its_run` is true.
    """

    def __init__(self, lease_id: str, opened: Claim) -> None:
        self._lease_id = lease_id
        self._opened = opened
        self._tags = opened.tags
        self._config: dict[str, Any] = json.loads(bytes(opened.config))

    def take(self, entry: LifecycleEntry) -> None:
        """Applies a change that this process has made."""
        match entry:
            case TagsAdded(tags=tags):
                try:
                    self._tags = add_tags(self._tags, tags)
                except InvalidRecordError:  # too many: the coordinator will leave them out too
                    return
            case TagsRemoved(tags=tags):
                self._tags = remove_tags(self._tags, tags)
            case ConfigUpdated(patch=patch):
                self._config = deep_merge(self._config, json.loads(bytes(patch)))
            case _:  # the other entries change neither
                pass

    @property
    def config(self) -> dict[str, Any]:
        """A copy of the config."""
        found: dict[str, Any] = json.loads(json.dumps(self._config))
        return found

    @property
    def view(self) -> View:
        """The view that a coordinator would send which knows only this process."""
        opened, fork = self._opened, self._opened.fork
        rank = opened.job.rank
        role: Role = opened.wanted or ("owner" if not rank else "worker")
        return View(
            generation=0,
            lease_id=self._lease_id,
            request=0,
            state="waiting",
            folded=0,
            role=role,
            label=opened.label or (role if not rank else f"rank{rank}"),
            rank=rank,
            run=RunView(
                key=opened.generated_id,
                external_id=_named(opened),
                project=opened.project,
                name=opened.name or _named(opened),
                mode=opened.target.mode,
                status="RUNNING",
                phase="opening",
                resumed=opened.resume,
                tags=self._tags,
                fork_run_id=fork.parent.id if fork is not None else None,
                fork_step=fork.step if fork is not None else None,
                provisional=True,
            ),
        )


def knows_its_run(opened: Claim) -> bool:
    """Whether the claim alone tells which Run is meant.

    One that names no Run would get a new one, unless it joins another's: of rank 0 of its job, of an earlier
    attempt, of its launcher, or of the process whose pool it is in.
    """
    if opened.verb != "init":
        return False
    if opened.run is not None:
        return True
    joins = opened.job.rank or opened.job.attempt or opened.launched_by or opened.parents
    return not joins


def _named(opened: Claim) -> str:
    """The caller's id, or the one that a new Run gets (`core.machine.opening` gives it)."""
    run = opened.run
    if run is not None and run.external_id is None:
        return str(run)
    external = run.external_id if run is not None and run.external_id else opened.generated_id
    beyond = opened.target.mode == "local" and opened.job.node_rank > 0  # its Run is another one …
    beyond = beyond and opened.cluster is None  # … unless the nodes have a cluster store in common
    return f"{external}-{node_name(opened)}" if beyond else external
