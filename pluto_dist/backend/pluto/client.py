"""The server's endpoints, one method each, with paths, bodies and answers as values, and the wire below.

No decisions: one attempt each, every foreign error translated here. Nothing that leaves this module carries
the API key: reasons are built from the kind of error, not from the request, and the key is put on each
request instead of on the client. An upload address is as good as a key for its object, so it is never part of
a reason either.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Annotated, TypeVar
from urllib.parse import quote, urlencode

import httpx
import msgspec

from pluto_dist.backend.pluto import guard
from pluto_dist.backend.pluto.exchange import (
    Answer,
    Broken,
    Failed,
    Kind,
    Progress,
    Reply,
    Service,
    classify,
    classify_broken,
    epoch_s,
    explain,
    failed,
    seconds_until,
)
from pluto_dist.core.values.backend import BackendRun, Delivered, LogType, Reached, Retry, Status, Unknown
from pluto_dist.core.values.ids import Scheduled
from pluto_dist.core.values.lifecycle import Target
from pluto_dist.secret import Secret

TERMINAL = frozenset({"COMPLETED", "FAILED", "TERMINATED", "CANCELLED"})
MARK = "pluto_dist"  # under which our own is kept in the Run's loggerSettings and systemMetadata
MARKED = f"systemMetadata.{MARK}.run_id"  # where `create` leaves the external id; the list is filtered by it
GIVEN = f"systemMetadata.{MARK}.given_id"  # and the id that its launch was given
UNMARKED = {
    "source": "systemMetadata",
    "key": f"{MARK}.run_id",
    "dataType": "text",
    "operator": "not exists",
    "values": [],
}


class RunReply(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Answer to create and resume."""

    run_id: int
    project_name: str
    url: str
    resumed: bool
    display_id: str | None = None
    forked_from_run_id: int | None = None
    fork_step: int | None = None


class RunMark(msgspec.Struct, frozen=True, omit_defaults=True):
    """Our mark in the Run's loggerSettings."""

    key: str = ""
    launch: str = ""
    scheduled: Scheduled | None = None


class Details(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Answer to `details`.

    Attributes:
        config: JSON text as the server has it; `null` if there is none.
    """

    id: int
    name: str
    status: Status
    project_name: str
    created_at: datetime
    display_id: str | None = None
    external_id: str | None = None
    tags: tuple[str, ...] = ()
    config: msgspec.Raw = msgspec.Raw(b"null")
    logger_settings: msgspec.Raw = msgspec.Raw(b"null")
    status_metadata: msgspec.Raw = msgspec.Raw(b"null")
    status_updated: datetime | None = None
    forked_from_run_id: int | None = None
    fork_step: int | None = None

    @property
    def config_object(self) -> bytes:
        """The config as a JSON object; empty where the server has none."""
        config = bytes(self.config)
        return b"{}" if config == b"null" else config

    @property
    def key(self) -> str:
        """The key of the coordinator that created the Run; "" if another client did."""
        return self._mark.key

    @property
    def launch(self) -> str:
        """The launch that took the Run up last, of those that span several nodes; "" if none did."""
        return self._mark.launch

    @property
    def scheduled(self) -> Scheduled | None:
        """The scheduler's job that took the Run up last."""
        return self._mark.scheduled

    @property
    def _mark(self) -> RunMark:
        try:
            settings = msgspec.json.decode(self.logger_settings, type=dict[str, msgspec.Raw])
            return msgspec.json.decode(settings.get(MARK, b"{}"), type=RunMark)
        except msgspec.DecodeError:
            return RunMark()


class Row(msgspec.Struct, frozen=True):
    """One Run of a list."""

    id: int


class Listed(msgspec.Struct, frozen=True):
    """Answer to `list`; `total` counts what is on other pages too."""

    runs: tuple[Row, ...]
    total: int


class Edge(msgspec.Struct, frozen=True, rename="camel"):
    """One point of a series; its step is a number or, from some versions of the store, digits in a string."""

    log_name: str
    step: int | Annotated[str, msgspec.Meta(pattern=r"^\d{1,20}$")]


class Edges(msgspec.Struct, frozen=True):
    """Answer to `metrics`."""

    metrics: tuple[Edge, ...]


class SaidLine(msgspec.Struct, frozen=True, rename="camel"):
    """One console line."""

    line_number: int


class Said(msgspec.Struct, frozen=True):
    """Answer to `logs`; `total` counts what is on other pages too."""

    logs: tuple[SaidLine, ...]
    total: int


class StatusEvent(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One change of status; `id` gives the order of writing, `created_at` may be set by clients."""

    id: str
    from_status: Status | None
    to_status: Status
    source: str
    created_at: datetime

    @property
    def at_ms(self) -> int:
        """`created_at` in epoch milliseconds."""
        return epoch_ms(self.created_at)


class History(msgspec.Struct, frozen=True):
    """All changes of status in the order of writing, which the server's answer is not in."""

    events: tuple[StatusEvent, ...]

    def in_order(self) -> tuple[StatusEvent, ...]:
        """Oldest first."""
        return tuple(sorted(self.events, key=lambda event: int(event.id)))


class BeatReply(msgspec.Struct, frozen=True):
    """Answer to a heartbeat."""

    status: Status


def mark(key: str, launch: str = "", scheduled: Scheduled | None = None) -> str:
    """The loggerSettings that say which coordinator's Run this is, and which launch has taken it up."""
    return msgspec.json.encode({MARK: RunMark(key, launch, scheduled)}).decode()


def system_metadata(given: str, external_id: str, given_id: str = "") -> str:
    """A JSON object with our mark in it, by which the Run is found again, and launches with one id."""
    metadata = msgspec.json.decode(given, type=dict[str, msgspec.Raw])
    found_by = {"run_id": external_id} | ({"given_id": given_id} if given_id else {})
    metadata[MARK] = msgspec.Raw(msgspec.json.encode(found_by))
    return msgspec.json.encode(metadata).decode()


def epoch_ms(moment: datetime) -> int:
    """Epoch milliseconds; whole ones, as the server prints them."""
    return round(moment.timestamp() * 1000)


T = TypeVar("T")
KeyProvider = Callable[[], Secret | None]

NO_KEY = Retry(
    "there is no API key; set PLUTO_API_KEY or run `pluto login`",
    key_problem=True,
)


class FileRow(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One file of a Run; there is a row for one that was never uploaded, too.

    Attributes:
        url: from where it can be had for five days.
    """

    file_name: str
    log_name: str
    file_size: int = 0
    time: int = 0
    step: int = 0
    annotations: str | None = None
    url: str = ""


class FileRows(msgspec.Struct, frozen=True):
    """Answer to `files`."""

    files: list[FileRow]


_files = msgspec.json.Decoder(FileRows)
_details = msgspec.json.Decoder(Details)
_history = msgspec.json.Decoder(History)
_listed = msgspec.json.Decoder(Listed)
_edges = msgspec.json.Decoder(Edges)
_said = msgspec.json.Decoder(Said)


class Client:
    """One target's services; the key is asked for anew at each request, so that it can be replaced."""

    def __init__(self, target: Target, key: KeyProvider, http: Http) -> None:
        self._urls: dict[Service, str] = {
            "api": target.url_api.rstrip("/"),
            "ingest": target.url_ingest.rstrip("/"),
            "py": target.url_py.rstrip("/"),
        }
        self._key = key
        self._http = http

    def create(self, fields: Mapping[str, object]) -> Reply:
        """Makes a Run, or attaches to the one with this external id."""
        return self._post("/api/runs/create", fields)

    def resume(self, fields: Mapping[str, object]) -> Reply:
        """Reopens a Run; one that is RUNNING is left as it is."""
        return self._post("/api/runs/resume", fields)

    def details(self, run_id: int) -> Reply:
        """Reads a Run."""
        return self._get(f"/api/runs/details/{run_id}")

    def details_by_display_id(self, display_id: str, project: str | None = None) -> Reply:
        """Reads a Run by `PREFIX-NUMBER`, which several projects may have."""
        query = f"?{urlencode({'projectName': project})}" if project else ""
        return self._get(f"/api/runs/details/by-display-id/{quote(display_id, safe='')}{query}")

    def list_runs(self, project: str, filters: Mapping[str, object], limit: int, offset: int = 0) -> Reply:
        """Lists Runs of a project, newest first; `filters` are written as JSON."""
        asked: dict[str, object] = {"projectName": project, "limit": limit, "offset": offset}
        written = {name: msgspec.json.encode(value).decode() for name, value in filters.items()}
        return self._get(f"/api/runs/list?{urlencode({**asked, **written})}")

    def first_and_last(self, run_id: int, project: str) -> Reply:
        """Reads the first and the last point of every series."""
        return self._get(f"/api/runs/metrics?{_of_run(run_id, project, limit=1)}")

    def console_lines(self, run_id: int, project: str, offset: int) -> Reply:
        """Reads one console line, by its place in the order of their numbers, and how many there are."""
        return self._get(f"/api/runs/logs?{_of_run(run_id, project, limit=1, offset=offset)}")

    def files(self, run_id: int, project: str, log_name: str) -> Reply:
        """Reads the files under one name, 1000 rows at most; "" for all names."""
        named = {"logName": log_name} if log_name else {}
        return self._get(f"/api/runs/files?{_of_run(run_id, project, **named)}")

    def history(self, run_id: int) -> Reply:
        """Reads the changes of status."""
        return self._get(f"/api/runs/status/history?{urlencode({'runId': run_id})}")

    def set_status(self, run_id: int, status: str, fields: Mapping[str, object]) -> Reply:
        """Sets the status, and more `fields` of the Run."""
        return self._post("/api/runs/status/update", {"runId": run_id, "status": status, **fields})

    def set_tags(self, run_id: int, tags: list[str]) -> Reply:
        """Replaces all tags."""
        return self._post("/api/runs/tags/update", {"runId": run_id, "tags": tags})

    def merge_config(self, run_id: int, patch: str) -> Reply:
        """Merges a JSON object, given as text."""
        return self._post("/api/runs/config/update", {"runId": run_id, "config": patch})

    def add_names(self, run_id: int, names: list[str], log_type: LogType) -> Reply:
        """Registers names; the first type of a name wins."""
        return self._post("/api/runs/logName/add", {"runId": run_id, "logName": names, "logType": log_type})

    def trigger(self, run_id: int) -> Reply:
        """Sends a heartbeat."""
        return self._send("beat", "py", "/api/runs/trigger", msgspec.json.encode({"runId": run_id}))

    def alert(self, run_id: int, fields: Mapping[str, object]) -> Reply:
        """Tells people."""
        body = msgspec.json.encode({"runId": run_id, "alert": fields})
        return self._send("alert", "py", "/api/runs/alert", body)

    def ingest(self, run: BackendRun, kind: Kind, path: str, body: bytes) -> Reply:
        """Sends request lines."""
        return self._send(kind, "ingest", path, body, _run_headers(run))

    def presign(self, run: BackendRun, files: Sequence[object]) -> Reply:
        """Asks for upload addresses."""
        body = msgspec.json.encode({"files": files})
        return self._send("presign", "ingest", "/files", body, _run_headers(run))

    def _post(self, path: str, fields: Mapping[str, object]) -> Reply:
        return self._send("control", "api", path, msgspec.json.encode(fields))

    def _get(self, path: str) -> Reply:
        return self._send("read", "api", path, None)

    def _send(
        self,
        kind: Kind,
        service: Service,
        path: str,
        body: bytes | None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        key = self._key()
        if key is None:
            return Reply(NO_KEY)
        method = "GET" if body is None else "POST"
        url = self._urls[service] + path
        return concluded(kind, self._http.send(kind, method, url, key, body=body, headers=headers))


def concluded(kind: Kind, result: Answer | Broken) -> Reply:
    """A result with its meaning."""
    if isinstance(result, Broken):
        return Reply(classify_broken(kind, result))
    return Reply(classify(kind, result), result)


def parsed(reply: Reply, parse: Callable[[bytes], T]) -> T | Failed:
    """The value in a delivered reply.

    A body that the server does not write (a proxy's page, one that breaks off) is as good as no answer.
    """
    if reply.answer is None or not isinstance(reply.outcome, Delivered):
        return failed(reply) or Failed(Unknown("no answer"))
    try:
        return parse(reply.answer.body)
    except (msgspec.DecodeError, UnicodeDecodeError) as fault:
        reason = f"the answer is not the server's: {fault}: {explain(reply.answer)}"
        return Failed(Unknown(reason), reply.answer)


def read_details(client: Client, run: int | str, project: str | None = None) -> Details | Failed:
    """A Run's details, by its number or its display id (without fork fields then)."""
    reply = client.details(run) if isinstance(run, int) else client.details_by_display_id(run, project)
    return parsed(reply, _details.decode)


def read_list(
    client: Client, project: str, filters: Mapping[str, object], limit: int, offset: int = 0
) -> Listed | Failed:
    """Runs of a project that pass the filters, newest first."""
    return parsed(client.list_runs(project, filters, limit, offset), _listed.decode)


def read_reached(client: Client, run_id: int, project: str) -> Reached | Failed:
    """Steps of a Run's series, and numbers of its console lines."""
    edges = parsed(client.first_and_last(run_id, project), _edges.decode)
    if isinstance(edges, Failed):
        return edges
    said = parsed(client.console_lines(run_id, project, 0), _said.decode)
    if isinstance(said, Failed):
        return said
    if said.total > 1:
        said = parsed(client.console_lines(run_id, project, said.total - 1), _said.decode)
        if isinstance(said, Failed):
            return said
    series: dict[str, int] = {}
    for edge in edges.metrics:
        series[edge.log_name] = max(series.get(edge.log_name, 0), int(edge.step))
    last_line = max((line.line_number for line in said.logs), default=0)
    return Reached(series=series, lines=said.total, last_line=last_line)


def read_files(client: Client, run_id: int, project: str, log_name: str = "") -> list[FileRow] | Failed:
    """A Run's files."""
    found = parsed(client.files(run_id, project, log_name), _files.decode)
    return found if isinstance(found, Failed) else found.files


def read_history(client: Client, run_id: int) -> History | Failed:
    """All changes of a Run's status."""
    return parsed(client.history(run_id), _history.decode)


def _of_run(run_id: int, project: str, **more: int | str) -> str:
    return urlencode({"runId": run_id, "projectName": project, **more})


def _run_headers(run: BackendRun) -> dict[str, str]:
    """Headers that name the Run; ingest does not check them: data under a wrong id or name is invisible."""
    if not guard.goes_in_header(run.project):
        raise guard.UnfitError(f"project name {run.project!r} does not fit into a header")
    guard.run_id(run.id)
    return {"X-Run-Id": str(run.id), "X-Project-Name": run.project}


CONNECT_S = 5.0
POOL_S = 5.0
KEEP_ALIVE_S = 15.0  # below the idle limits of usual proxies (60 s), so that they do not close first
PIECE = 1 << 20
ANSWER_LIMIT = 64 << 20
ANSWER_S = 120.0  # for a whole body; the read timeout only bounds the wait for its next piece
CONTENT_TYPE = {"metrics": "application/x-ndjson", "rows": "application/x-ndjson"}

# Ingest blocks instead of refusing when its queue is full, so it gets longer.
READ_S: dict[Kind, float] = {
    "control": 30.0,
    "read": 30.0,
    "beat": 10.0,
    "alert": 30.0,
    "metrics": 60.0,
    "rows": 60.0,
    "presign": 30.0,
    "put": 120.0,
}

# A proxy from the environment never stands between a process and its own machine.
LOOPBACK = {f"all://{host}": None for host in ("localhost", "127.0.0.1", "[::1]")}

_PROGRESS: tuple[tuple[type[Exception], Progress], ...] = (
    (httpx.ConnectError, "unsent"),
    (httpx.ConnectTimeout, "unsent"),
    (httpx.PoolTimeout, "unsent"),
    (httpx.ProxyError, "unsent"),
    (httpx.UnsupportedProtocol, "unsent"),
    (httpx.InvalidURL, "unsent"),
    (httpx.WriteError, "partly"),
    (httpx.WriteTimeout, "partly"),
    (httpx.LocalProtocolError, "partly"),
)


class Http:
    """Connections to one target; safe to use from several threads."""

    def __init__(
        self,
        *,
        user_agent: str = "pluto-dist",
        transport: httpx.BaseTransport | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs whole upload addresses at INFO
        self._wall = wall
        self._unusable = ""
        try:
            self._client = _client(user_agent, transport)
        except (ImportError, OSError, ValueError, httpx.InvalidURL) as fault:
            # httpx reads every proxy variable at once, those for other hosts too, and refuses to be made.
            self._unusable = _unusable(fault)

    def send(
        self,
        kind: Kind,
        method: str,
        url: str,
        key: Secret,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer | Broken:
        """Sends one request to a service of the server; an answer that quotes the key is changed."""
        fields = {"Authorization": f"Bearer {key.reveal()}", **(headers or {})}
        if body is not None:
            fields["Content-Type"] = CONTENT_TYPE.get(kind, "application/json")
        answer = self._exchange(kind, method, url, fields, body)
        if isinstance(answer, Answer) and (secret := key.reveal().encode()) in answer.body:
            return msgspec.structs.replace(answer, body=answer.body.replace(secret, b"<the API key>"))
        return answer

    def put(self, url: str, pieces: Iterator[bytes], size: int) -> Answer | Broken:
        """Uploads pieces of `size` bytes in all to an upload address, without the API key.

        What `pieces` raises comes out of here. The request is incomplete then, so that storage keeps nothing
        of it.
        """
        return self._exchange("put", "PUT", url, {"Content-Length": str(size)}, pieces)

    def fetch(self, url: str) -> Iterator[bytes]:
        """The bytes behind a download address, piece by piece, without the API key.

        Raises:
            OSError: storage does not give them.
        """
        timeout = httpx.Timeout(READ_S["put"], connect=CONNECT_S, pool=POOL_S)
        if self._unusable:
            raise OSError(self._unusable)
        try:
            with self._client.stream("GET", url, timeout=timeout, follow_redirects=False) as response:
                if response.status_code != httpx.codes.OK:
                    raise OSError(f"storage answers {response.status_code} to a download")
                yield from response.iter_bytes(PIECE)
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as fault:
            raise OSError(f"a download broke off: {_broken(fault).reason}") from fault

    def close(self) -> None:
        """Closes all connections."""
        if not self._unusable:
            self._client.close()

    def _exchange(
        self, kind: Kind, method: str, url: str, headers: dict[str, str], body: bytes | Iterator[bytes] | None
    ) -> Answer | Broken:
        if self._unusable:
            return Broken("unsent", self._unusable)
        timeout = httpx.Timeout(READ_S[kind], connect=CONNECT_S, pool=POOL_S)
        try:
            with self._client.stream(
                method, url, headers=headers, content=body, timeout=timeout, follow_redirects=False
            ) as response:
                return self._answer(response)
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as fault:
            return _broken(fault)

    def _answer(self, response: httpx.Response) -> Answer | Broken:
        body = bytearray()
        deadline = time.monotonic() + ANSWER_S
        for piece in response.iter_bytes():
            body += piece
            if len(body) > ANSWER_LIMIT:
                return Broken("sent", f"the answer is longer than {ANSWER_LIMIT >> 20} MiB")
            if time.monotonic() > deadline:
                return Broken("sent", f"the answer was not complete after {ANSWER_S:.0f} s")
        now_s = epoch_s(response.headers.get("Date"))
        return Answer(
            status=response.status_code,
            body=bytes(body),
            after_s=seconds_until(response.headers.get("Retry-After"), now_s or self._wall()),
            server_ms=None if now_s is None else int(now_s * 1000),
        )


def _client(user_agent: str, transport: httpx.BaseTransport | None) -> httpx.Client:
    return httpx.Client(
        headers={"User-Agent": user_agent},
        limits=httpx.Limits(max_connections=16, max_keepalive_connections=8, keepalive_expiry=KEEP_ALIVE_S),
        mounts=LOOPBACK,
        transport=transport,
    )


def _unusable(fault: Exception) -> str:
    """Why the environment allows no connections; httpx masks passwords in the address of a proxy."""
    if isinstance(fault, ImportError):
        return "a proxy variable names a SOCKS proxy, which needs `pip install 'httpx[socks]'` here"
    if isinstance(fault, OSError):  # of TLS too
        return f"SSL_CERT_FILE or SSL_CERT_DIR cannot be used ({fault}); correct or unset it"
    variables = "ALL_PROXY, HTTPS_PROXY, HTTP_PROXY or NO_PROXY"
    return f"{variables} cannot be used ({fault}); correct or unset it, in lower case too"


def _broken(fault: Exception) -> Broken:
    name = type(fault).__name__
    progress: Progress = next((step for cause, step in _PROGRESS if isinstance(fault, cause)), "sent")
    # Only these have texts of the operating system; others quote the request, its headers included.
    told = isinstance(fault, httpx.NetworkError) and str(fault)
    return Broken(progress, f"{name}: {fault}" if told else name)
