"""Tags and config of a Run of several nodes, as one node takes part in their changes (G9).

What "the others know" is one field, `Run.pushed_tags`, beside `untagged` and `config_patch`: for the seat the
others are the server, for every other node the seat. `Run.speaks` says which of the two is meant.
"""

from __future__ import annotations

from pluto_dist.core.machine.context import Context, Shared
from pluto_dist.core.rules.changes import (
    LARGEST_CONFIG,
    NOTHING,
    fitting,
    is_ahead,
    merge_json,
    merged_config,
    merged_tags,
    pending,
    state_of,
    without,
)
from pluto_dist.core.values.book import Config
from pluto_dist.core.values.cluster import Change, SharedState
from pluto_dist.core.values.records import Run


class Changes:
    """Changes that this node appends for the seat, or folds as the seat, and the state that all nodes adopt.

    Args:
        context: of the coordinator.
        node: this one.
    """

    def __init__(self, context: Context, node: str) -> None:
        self._context = context
        self._book = context.book
        self._shared = Shared(context)
        self._node = node
        self._appending: tuple[int, Change] | None = None

    def to_append(self, run: Run, state: SharedState | None) -> tuple[int, Change] | None:
        """The next change for the seat, with its number; the same until it is certain that it is there."""
        if self._appending is None:
            run = self._no_longer_speaks(run)
            change = pending(run)
            if change is not None:
                folded = state.folded.get(self._node, 0) if state is not None else 0
                self._appending = max(folded, run.told) + 1, change
        return self._appending

    def appended(self, run: Run, *, as_it_is: bool) -> None:
        """The change of that number is there; another one of this node if not `as_it_is`."""
        if self._appending is not None:
            (number, change), self._appending = self._appending, None
            known = without(run, change) if as_it_is else {}
            self._context.change_run(run, told=number, **known)

    def owes(self, run: Run) -> bool:
        """Whether the seat does not know yet what was changed here."""
        return self._appending is not None or pending(run) is not None

    def note_left_out(self, run: Run, state: SharedState | None) -> None:
        """Tells people once which values of the config other nodes do not see."""
        there = state.left_out if state is not None else ()
        names = sorted({*there, *fitting(run.config_patch)[1]})
        if names:
            why = f"the cluster store takes {LARGEST_CONFIG >> 10} KiB, so other nodes do not see them"
            self._context.note_once(run.key, "config_too_large", values=", ".join(names), why=why)

    def adopt(self, run: Run, state: SharedState) -> None:
        """Takes what the seat tells, as soon as all changes of this node are in it."""
        if run.opening or self._appending is not None or run.told > state.folded.get(self._node, 0):
            return
        self._put(self._no_longer_speaks(run), state, pushed_tags=state.tags)

    def lead(self, run: Run, state: SharedState | None, appended: dict[tuple[str, int], Change]) -> None:
        """Folds as the seat; a new one lays what it had not appended yet over what it had."""
        later = pending(run) if not run.speaks else None
        self._speak(run, state)
        self._fold(self._book.runs[run.key], appended)
        if later is not None:
            self._apply(run.key, later)

    def _speak(self, run: Run, state: SharedState | None) -> None:
        """This node has the seat now: what the server does not know yet is for it to say."""
        self._appending = None  # it folds that itself, and an answer must not count it as told to the server
        if state is None or (run.speaks and not is_ahead(state, run)):
            if not run.speaks:  # what was appended here for a seat that folded nothing is still to be told
                known = {"pushed_tags": None} if run.told else {}
                self._context.change_run(run, speaks=True, **known)
            return
        self._put(
            run,
            state,
            pushed_tags=state.base,
            untagged=tuple(dict.fromkeys((*state.untagged, *run.untagged))),
            config_patch=_patch(bytes(state.patch), run.config_patch),
            folded=state.folded,
            speaks=True,
        )

    def _fold(self, run: Run, appended: dict[tuple[str, int], Change]) -> None:
        """Lets changes of all nodes take effect, each once."""
        for (node, number), change in sorted(appended.items()):
            folded = self._book.runs[run.key].folded
            if number <= folded.get(node, 0):
                continue
            self._apply(run.key, change)
            run = self._book.runs[run.key]
            self._context.change_run(run, folded={**folded, node: number})

    def _apply(self, run: str, change: Change) -> None:
        self._shared.add_tags(run, change.added)
        if change.removed:  # the seat before may have told the server of a tag that is new here
            self._shared.remove_tags(run, change.removed)
            now = self._book.runs[run]
            unknown = (tag for tag in change.removed if tag not in (now.pushed_tags or ()))
            self._context.change_run(now, untagged=tuple(dict.fromkeys((*now.untagged, *unknown))))
        if bytes(change.config) != NOTHING:
            self._shared.update_config(run, bytes(change.config))

    def state(self, run: Run) -> SharedState:
        """What the seat tells all nodes."""
        return state_of(run, (self._book.configs.get(run.key) or Config()).body)

    def _no_longer_speaks(self, run: Run) -> Run:
        """Another node has taken the seat: it is told what was changed here meanwhile."""
        return self._context.change_run(run, pushed_tags=(), speaks=False) if run.speaks else run

    def _put(self, run: Run, state: SharedState, **fields: object) -> None:
        known = self._book.configs.get(run.key) or Config()
        body = merged_config(run, state, known.body)
        fields = {"tags": merged_tags(run, state), **fields}
        if body != known.body:
            self._book.configs.put(run.key, Config(body=body, given=known.given))
            self._context.touch(run.key)
        if any(getattr(run, name) != value for name, value in fields.items()):
            self._context.change_run(run, **fields)


def _patch(first: bytes, then: bytes) -> bytes:
    merged = merge_json(first or NOTHING, then or NOTHING)
    return b"" if merged == NOTHING else merged
