"""Shared state: tags and config of a Run, changed one after the other (G9).

A change that cannot be made leaves everything as it was and is noted in the Run's history.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from pluto_dist.core.book import Config
from pluto_dist.core.context import Context
from pluto_dist.core.merge import add_tags, checked_tags, inherit_tags, merge_json, remove_tags
from pluto_dist.core.records import Run
from pluto_dist.errors import InvalidRecordError


class Shared:
    """Changes the newest state of a Run; what the backend lacks of it is sent later."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._book = context.book

    def add_tags(self, run: str, tags: Iterable[str]) -> None:
        """Adds tags behind those that are there."""
        self._change(run, lambda known: self._put_tags(known, add_tags(known.tags, tags)))

    def remove_tags(self, run: str, tags: Iterable[str]) -> None:
        """Removes tags; also one that only the server has, because somebody has added it there."""
        self._change(run, lambda known: self._take_tags(known, checked_tags(tags)))

    def inherit_tags(self, run: str, parent: Iterable[str]) -> None:
        """A fork begins with its parent's tags; its own win."""
        self._change(run, lambda known: self._put_tags(known, inherit_tags(parent, known.tags)))

    def update_config(self, run: str, patch: bytes) -> None:
        """Merges a JSON object deeply into the config."""
        self._change(run, lambda known: self._merge(known, patch))

    def rebase_config(self, run: str, base: bytes, patch: bytes) -> None:
        """The config is `base` and, over it, `patch` and what the backend has not got yet."""
        self._change(run, lambda known: self._rebase(known, base, patch))

    def _change(self, key: str, change: Callable[[Run], None]) -> None:
        run = self._book.runs[key]
        try:
            change(run)
        except InvalidRecordError as error:
            self._context.note(key, "change_refused", why=str(error))

    def _put_tags(self, run: Run, tags: tuple[str, ...]) -> None:
        untagged = tuple(tag for tag in run.untagged if tag not in tags)
        if (tags, untagged) != (run.tags, run.untagged):
            self._context.change_run(run, tags=tags, untagged=untagged)

    def _take_tags(self, run: Run, tags: tuple[str, ...]) -> None:
        elsewhere = tuple(tag for tag in tags if tag not in run.tags)
        untagged = tuple(dict.fromkeys((*run.untagged, *elsewhere)))
        self._context.change_run(run, tags=remove_tags(run.tags, tags), untagged=untagged)

    def _merge(self, run: Run, patch: bytes) -> None:
        config = self._book.configs.get(run.key) or Config()
        body = merge_json(config.body, patch)
        pending = merge_json(run.config_patch or b"{}", patch)
        self._book.configs.put(run.key, msgspec.structs.replace(config, body=body))
        self._context.change_run(run, config_patch=pending)

    def _rebase(self, run: Run, base: bytes, patch: bytes) -> None:
        config = self._book.configs.get(run.key) or Config()
        pending = merge_json(patch, run.config_patch or b"{}")
        body = merge_json(base, pending)
        self._book.configs.put(run.key, msgspec.structs.replace(config, body=body))
        self._context.change_run(run, config_patch=b"" if pending == b"{}" else pending)
