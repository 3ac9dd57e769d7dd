"""Building blocks of the tests of the server's backend."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx

from pluto_dist.backend.pluto import PlutoBackend
from pluto_dist.backend.pluto.client import Client, Http
from pluto_dist.core.values.backend import BackendRun, Batch, OpenRequest, StreamKind
from pluto_dist.core.values.lifecycle import Target
from pluto_dist.secret import Secret

KEY = "mlps_GOOD"
TARGET = Target(
    mode="pluto", store="/s", url_api="http://api", url_ingest="http://ingest/", url_py="http://py"
)
RUN = BackendRun(key="k1", target=TARGET, id=7, project="proj", name="n")


def request(**fields: Any) -> OpenRequest:
    """A create with defaults."""
    usual: dict[str, Any] = {
        "key": "k1",
        "target": TARGET,
        "want": "create",
        "project": "proj",
        "name": "n",
        "external_id": "ext",
    }
    return OpenRequest(**(usual | fields))


def batch(kind: StreamKind, *lines: dict[str, Any] | bytes) -> Batch:
    """A batch as the spool's reader cuts it; a server's backend needs only its lines."""
    payloads = tuple(line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n" for line in lines)
    where = {"segment": 0, "start": 0, "end": sum(map(len, payloads)), "folder": ""}
    return Batch(lease_id="0" * 16, stream=kind, kind=kind, lines=payloads, **where)


Handler = Callable[[httpx.Request], httpx.Response]


class Wire:
    """A network without sockets: records requests, answers from a script, else with `{"success":true}`."""

    def __init__(self, *answers: httpx.Response | Exception | Handler) -> None:
        self.requests: list[httpx.Request] = []
        self._answers = list(answers)

    def backend(self, key: str | None = KEY) -> PlutoBackend:
        """A backend on this network."""
        secret = Secret(key) if key else None
        transport = httpx.MockTransport(self._answer)
        return PlutoBackend(TARGET, lambda: secret, transport=transport)

    def client(self) -> Client:
        """The endpoints on this network."""
        return Client(TARGET, lambda: Secret(KEY), Http(transport=httpx.MockTransport(self._answer)))

    def sent(self, number: int = -1) -> tuple[str, str, Any]:
        """Method, URL and decoded body of a request."""
        asked = self.requests[number]
        body = asked.content.decode()
        return asked.method, str(asked.url), json.loads(body) if body.startswith("{") else body

    @property
    def paths(self) -> list[str]:
        """The paths that were asked for, in order."""
        return [asked.url.path for asked in self.requests]

    def _answer(self, asked: httpx.Request) -> httpx.Response:
        asked.read()
        self.requests.append(asked)
        answer = self._answers.pop(0) if self._answers else httpx.Response(200, json={"success": True})
        if isinstance(answer, Exception):
            raise answer
        return answer(asked) if callable(answer) else answer


def ok(**fields: Any) -> httpx.Response:
    """A JSON answer."""
    return httpx.Response(200, json=fields)


def created(run_id: int = 7, *, resumed: bool = False, **fields: Any) -> httpx.Response:
    """Answer to create and resume."""
    usual = {
        "runId": run_id,
        "number": 1,
        "displayId": "PRO-1",
        "projectName": "proj",
        "organizationSlug": "o",
        "url": "http://app/run",
        "resumed": resumed,
        "forkedFromRunId": None,
        "forkStep": None,
    }
    return httpx.Response(200, json=usual | fields)


def details(run_id: int = 7, *, key: str | None = None, **fields: Any) -> httpx.Response:
    """Answer to details."""
    usual = {
        "id": run_id,
        "name": "theirs",
        "number": 1,
        "displayId": "PRO-1",
        "status": "RUNNING",
        "tags": ["a"],
        "config": {"x": 1},
        "systemMetadata": None,
        "loggerSettings": {"pluto_dist": {"key": key}} if key else None,
        "statusMetadata": None,
        "createdAt": "2026-11-23T00:42:08.623Z",
        "updatedAt": "2026-11-23T00:42:08.623Z",
        "statusUpdated": None,
        "projectName": "proj",
        "externalId": "ext",
        "forkedFromRunId": None,
        "forkStep": None,
        "logNames": [],
    }
    return httpx.Response(200, json=usual | fields)


def listed(*ids: int, total: int | None = None) -> httpx.Response:
    """Answer to a list."""
    return ok(runs=[{"id": run_id} for run_id in ids], total=len(ids) if total is None else total)


def absent() -> list[httpx.Response]:
    """Nobody has the external id: no Run with our mark, and none of another client."""
    return [listed(), listed()]


def reached(**steps: int) -> list[httpx.Response]:
    """How far a Run has come: the last step of each series, and no console line."""
    points = [{"logName": name, "step": step, "value": 0.5} for name, step in steps.items()]
    return [ok(metrics=points), ok(logs=[], total=0)]
