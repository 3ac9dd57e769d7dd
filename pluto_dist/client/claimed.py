"""The Run as a process knows it by itself while no coordinator can be had: what it asked for and said since.

Training reads `run.run_id` or `run.config` in its first lines and must not end there because a disk is full
(G4). It is no promise: a coordinator that comes later may find that the id is taken (R8), or another owner.
"""

from __future__ import annotations

import json
from typing import Any

from pluto_dist.core.ids import Role
from pluto_dist.core.lifecycle import ConfigUpdated, LifecycleEntry, Opened, TagsAdded, TagsRemoved
from pluto_dist.core.merge import add_tags, deep_merge, remove_tags
from pluto_dist.core.messages import RunView, View
from pluto_dist.core.nodes import node_name
from pluto_dist.errors import InvalidRecordError


class Claimed:
    """What one claim says about its Run.

    Args:
        lease_id: of the process.
        opened: its first entry; `knows_its_run` of it holds.
    """

    def __init__(self, lease_id: str, opened: Opened) -> None:
        self._lease_id = lease_id
        self._opened = opened
        self._tags = opened.tags
        self._config: dict[str, Any] = json.loads(bytes(opened.config))

    def take(self, entry: LifecycleEntry) -> None:
        """A change that this process has made."""
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

    @property
    def config(self) -> dict[str, Any]:
        """A copy of the config."""
        found: dict[str, Any] = json.loads(json.dumps(self._config))
        return found

    @property
    def view(self) -> View:
        """As a coordinator would say it that has only heard of this process."""
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


def knows_its_run(opened: Opened) -> bool:
    """Whether the process can say which Run is meant without asking.

    One that names no Run would get a new one, unless the Run is another's: of the rank 0 of its job, of an
    earlier attempt, of its launcher, or of the process whose pool it is in.
    """
    if opened.verb != "init":
        return False
    if opened.run is not None:
        return True
    joins = opened.job.rank or opened.job.attempt or opened.launched_by or opened.parents
    return not joins


def _named(opened: Opened) -> str:
    """The caller's id, or the one that a new Run gets (`core.opening` gives it)."""
    run = opened.run
    if run is not None and run.external_id is None:
        return str(run)
    external = run.external_id if run is not None and run.external_id else opened.generated_id
    beyond = opened.target.mode == "local" and opened.job.node_rank > 0  # its Run is another one
    return f"{external}-{node_name(opened)}" if beyond else external
