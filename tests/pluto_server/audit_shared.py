"""Client defects in what several processes share: tags 6.3.6, names 6.3.7, and content types 6.3.11."""

from collections.abc import Iterable

from .defects import Defect
from .runs import Run
from .state import State
from .wire import Peer, Request

METRIC_TYPES = frozenset({"METRIC"})
FILE_TYPES = frozenset({"IMAGE", "VIDEO", "AUDIO", "FILE", "TEXT", "ARTIFACT"})
_DATA_TYPES = {"histogram": frozenset({"HISTOGRAM"}), "table": frozenset({"TABLE"})}


def data_types(data_type: str) -> frozenset[str]:
    """The log types that suit a data row's type."""
    return _DATA_TYPES.get(data_type.lower(), frozenset({"DATA", "TEXT"}))


class SharedAudit:
    """Remembers who knows which tags, and which names are in use. Call under the state's lock."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._known_tags: dict[tuple[str, int], set[str]] = {}
        self._used: dict[tuple[int, str], frozenset[str]] = {}
        self._unregistered: set[tuple[int, str]] = set()

    def learned(self, peer: Peer, run: Run, tags: Iterable[str]) -> None:
        """The sender wrote or read these tags of the run."""
        self._known_tags.setdefault((peer.sender(), run.id), set()).update(tags)

    def retagged(self, request: Request, run: Run, before: list[str], after: list[str]) -> None:
        """The run's tags were overwritten."""
        senders = {request.peer.sender(), *request.peer.forebears()}
        known = set().union(*(self._known_tags.get((sender, run.id), set()) for sender in senders))
        lost = tuple(sorted(set(before) - set(after) - known))
        if lost:
            text = f"tags {', '.join(lost)} removed by a sender that never knew them"
            self._add(request.id, "6.3.6", text, run.id, lost)
        self.learned(request.peer, run, after)

    def used(self, run_id: int, names: Iterable[str], types: frozenset[str]) -> None:
        """Data arrived under these names; one of the types suits."""
        for name in names:
            self._used.setdefault((run_id, name), types)

    def registered(self, request: Request, run: Run, name: str, log_type: str) -> None:
        """A name was registered; the first type stays."""
        first = run.log_names[name]
        if first != log_type:
            self._add(request.id, "6.3.7", f"{name!r} registered as {log_type}, is {first}", run.id, (name,))

    def content_type(self, request: Request) -> None:
        """A control request with a body."""
        if not request.sends_json():
            given = request.headers.get("content-type", "none")
            self._add(request.id, "6.3.11", f"{request.path} with content type {given}", None, ())

    def check(self, only_run: int | None = None) -> None:
        """Names in use that are not registered, or as something else; each is found once."""
        for (run_id, name), types in self._used.items():
            run = self._state.book.runs.get(run_id)
            if run is None or only_run not in (None, run_id) or (run_id, name) in self._unregistered:
                continue
            given = run.log_names.get(name)
            if given in types:
                continue
            self._unregistered.add((run_id, name))
            wanted = " or ".join(sorted(types))
            text = f"{name!r} is in use as {wanted} and registered as {given or 'nothing'}"
            self._add(None, "6.3.7", text, run_id, (name,))

    def _add(
        self, request_id: int | None, kind: str, text: str, run_id: int | None, names: tuple[str, ...]
    ) -> None:
        self._state.defects.add(Defect(kind, text, run_id, names, request_id, self._state.now_ms()))
