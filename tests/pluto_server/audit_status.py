"""Client defects in a run's life: creates 6.3.8, status reports 6.3.5, heartbeats 6.3.10, asking 6.3.12."""

from dataclasses import dataclass, field

from .defects import Defect
from .journal import Entry
from .objects import SIGNATURE
from .runs import Run
from .state import State
from .status import is_terminal
from .wire import Request

_GAP_MS = 60_000


@dataclass(slots=True)
class _Life:
    """What is remembered of one run since it last became RUNNING.

    `idle_since` is the status it was reopened from, as long as nobody has gone on with it.
    """

    last_beat_ms: int | None = None
    senders: list[str] = field(default_factory=list)
    told: dict[str, int] = field(default_factory=dict)  # sender -> the request whose answer told it
    reported: str | None = None
    idle_since: str | None = None


class StatusAudit:
    """Looks at creates, reports and polls. Call under the state's lock."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._lives: dict[int, _Life] = {}
        self._creates: dict[tuple[str, str, str], int] = {}

    def created(self, request: Request, run: Run, external_id: str | None) -> None:
        """A create was answered with this run."""
        if external_id is None:
            self._add(request.id, "6.3.8", f"run {run.id} created without externalId", run)
            return
        logical = (run.organization_id, run.project.name, external_id)
        earlier = self._creates.get(logical)
        self._creates[logical] = request.id
        if earlier is not None and self._answered_before(earlier, request):
            self._add(request.id, "6.3.8", f"run {run.id} created again with externalId {external_id!r}", run)

    def reopened(self, run: Run, was: str | None = None) -> None:
        """The run is RUNNING again: its earlier end does not count any more."""
        life = self._lives.setdefault(run.id, _Life())
        life.told.clear()
        life.reported = None
        life.idle_since = was
        if life.last_beat_ms is not None:
            life.last_beat_ms = self._state.now_ms()

    def reported(self, request: Request, run: Run, status: str, *, applied: bool) -> None:
        """A status report was taken; call after it was applied or ignored."""
        life = self._lives.setdefault(run.id, _Life())
        if not is_terminal(status):
            self.reopened(run)
            return
        self._gap(request.id, run, life)
        if life.idle_since == status:
            text = f"run {run.id} reopened from {status} and put back: asking must not write"
            self._add(request.id, "6.3.12", text, run)
        life.idle_since = None
        for entry in self._state.journal.in_flight():
            if self._delivers_to(entry, run):
                text = (
                    f"{status} reported while {entry.method} {entry.path} (request {entry.id}) was in flight"
                )
                self._add(request.id, "6.3.5", text, run)
        if not applied:
            self._add(request.id, "6.3.5", f"{status} ignored, the run is {run.status}", run)
        elif life.reported not in (None, status):
            self._add(request.id, "6.3.5", f"{status} reported after {life.reported}", run)
        life.reported = status
        self._tell(life, request)

    def polled(self, request: Request, run: Run, before: str) -> None:
        """A heartbeat was answered; `before` is the status the poll found."""
        life = self._lives.setdefault(run.id, _Life())
        sender = request.peer.sender()
        if sender in life.told and self._answered_before(life.told[sender], request):
            text = f"heartbeat after the sender knew that the run is {before}"
            self._add(request.id, "6.3.10", text, run)
        life.idle_since = None
        if before == "RUNNING":
            self._gap(request.id, run, life)
        self._source(request.id, run, life, sender)
        life.last_beat_ms = self._state.now_ms()
        if is_terminal(run.status):
            self._tell(life, request)

    def check(self) -> None:
        """Runs whose heartbeat stopped while they were RUNNING, or that were reopened for nothing."""
        for run in self._state.book.runs.values():
            life = self._lives.get(run.id)
            if life is not None and life.idle_since is not None:
                text = f"run {run.id} reopened from {life.idle_since}, and nobody went on with it"
                self._add(None, "6.3.12", text, run)
                life.idle_since = None
        for run in self._state.book.runs.values():
            if run.status == "RUNNING" and run.id in self._lives:
                self._gap(None, run, self._lives[run.id])

    def _tell(self, life: _Life, request: Request) -> None:
        """The answer to this request tells its sender of the end, unless an earlier one has arrived."""
        earlier = life.told.get(request.peer.sender())
        if earlier is None or not self._state.journal.knows_answer(earlier):
            life.told[request.peer.sender()] = request.id

    def _answered_before(self, earlier: int, request: Request) -> bool:
        entry = self._state.journal.get(earlier)
        now = self._state.journal.get(request.id)
        if entry is None or now is None or not self._state.journal.knows_answer(earlier):
            return False
        return entry.finished_at is not None and entry.finished_at <= now.at

    def _delivers_to(self, entry: Entry, run: Run) -> bool:
        if entry.service == "storage":
            grant = self._state.objects.grants.get(entry.query.get(SIGNATURE, ""))
            return grant is not None and grant.method == entry.method == "PUT" and grant.run_id == run.id
        return entry.service == "ingest" and entry.headers.get("x-run-id") == str(run.id)

    def _gap(self, request_id: int | None, run: Run, life: _Life) -> None:
        now_ms = self._state.now_ms()
        if life.last_beat_ms is not None and now_ms - life.last_beat_ms > _GAP_MS:
            seconds = (now_ms - life.last_beat_ms) / 1000
            self._add(request_id, "6.3.10", f"no heartbeat for {seconds} s while RUNNING", run)
            life.last_beat_ms = now_ms

    def _source(self, request_id: int, run: Run, life: _Life, sender: str) -> None:
        if not life.senders or life.senders[-1] == sender:
            life.senders = life.senders or [sender]
            return
        # A hand-over from one source to the next is fine; a source that comes back is a second one.
        if sender in life.senders:
            text = f"heartbeats from {len(set(life.senders))} sources in turn: {', '.join(life.senders)}"
            self._add(request_id, "6.3.10", text, run)
            life.senders = [sender]
            return
        life.senders.append(sender)

    def _add(self, request_id: int | None, kind: str, text: str, run: Run) -> None:
        self._state.defects.add(Defect(kind, text, run.id, (), request_id, self._state.now_ms()))
