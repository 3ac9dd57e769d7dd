"""The server's endpoints, one function each: paths, bodies, and what the answer means. No decisions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar
from urllib.parse import quote, urlencode

import msgspec

from pluto_dist.backend.pluto import guard
from pluto_dist.backend.pluto.classify import classify, classify_broken, explain
from pluto_dist.backend.pluto.exchange import Answer, Broken, Failed, Kind, Reply, Service, failed
from pluto_dist.backend.pluto.http import Http
from pluto_dist.backend.pluto.replies import Details, History, Listed
from pluto_dist.core.lifecycle import Target
from pluto_dist.core.outcomes import Delivered, Retry, Unknown
from pluto_dist.core.requests import BackendRun, LogType
from pluto_dist.core.secret import Secret

T = TypeVar("T")
KeyProvider = Callable[[], Secret | None]

NO_KEY = Retry(
    "there is no API key; set PLUTO_API_KEY or run `pluto login`",
    key_problem=True,
)


_details = msgspec.json.Decoder(Details)
_history = msgspec.json.Decoder(History)
_listed = msgspec.json.Decoder(Listed)


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

    def history(self, run_id: int) -> Reply:
        """Reads the changes of status."""
        return self._get(f"/api/runs/status/history?{urlencode({'runId': run_id})}")

    def set_status(self, run_id: int, status: str, fields: Mapping[str, object]) -> Reply:
        """Sets the status; `fields` says what else of it."""
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
        """Sign of life."""
        return self._send("beat", "py", "/api/runs/trigger", msgspec.json.encode({"runId": run_id}))

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
    """What the server has of a Run, by its number or its display id (without fork fields then)."""
    reply = client.details(run) if isinstance(run, int) else client.details_by_display_id(run, project)
    return parsed(reply, _details.decode)


def read_list(
    client: Client, project: str, filters: Mapping[str, object], limit: int, offset: int = 0
) -> Listed | Failed:
    """Which Runs of a project fit, newest first."""
    return parsed(client.list_runs(project, filters, limit, offset), _listed.decode)


def read_history(client: Client, run_id: int) -> History | Failed:
    """How a Run's status changed."""
    return parsed(client.history(run_id), _history.decode)


def _run_headers(run: BackendRun) -> dict[str, str]:
    """Ingest believes these blindly: a wrong id or name makes data invisible, with a 200."""
    if not guard.goes_in_header(run.project):
        raise guard.UnfitError(f"project name {run.project!r} does not fit into a header")
    guard.run_id(run.id)
    return {"X-Run-Id": str(run.id), "X-Project-Name": run.project}
