"""A bare HTTP client for the emulator's own tests: nothing retried, nothing hidden."""

import http.client
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from tests.patience import PATIENCE_S

from .server import KEY


@dataclass(frozen=True, slots=True)
class Answer:
    """A response; `json` is its decoded body."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode()

    @property
    def json(self) -> Any:
        """The decoded body."""
        return json.loads(self.body)


def send(
    url: str, method: str = "POST", body: str | bytes | None = None, headers: dict[str, str] | None = None
) -> Answer:
    """One request on a connection of its own."""
    target = urlsplit(url)
    connection = http.client.HTTPConnection(target.netloc, timeout=PATIENCE_S)
    path = f"{target.path}?{target.query}" if target.query else target.path
    try:
        data = body.encode() if isinstance(body, str) else body
        connection.request(method, path, data, headers or {})
        response = connection.getresponse()
        names = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, names, response.read())
    finally:
        connection.close()


class Client:
    """A sender with a key and a name, as several processes would be told apart."""

    def __init__(self, urls: Any, sender: str = "one", key: str = KEY) -> None:
        self._urls = urls
        self._headers = {"Authorization": f"Bearer {key}", "X-Emulator-Sender": sender}

    def api(self, path: str, **body: Any) -> Answer:
        """POST to the control API."""
        return self._json(f"{self._urls.api}/api/runs/{path}", body)

    def read(self, path: str) -> Any:
        """GET from the control API: the decoded body."""
        answer = send(f"{self._urls.api}/api/runs/{path}", "GET", None, self._headers)
        assert answer.status == 200, answer
        return answer.json

    def beat(self, run_id: int) -> Answer:
        """A heartbeat."""
        return self._json(f"{self._urls.py}/api/runs/trigger", {"runId": run_id})

    def ingest(
        self, kind: str, lines: list[Any], run_id: int | str = 1, project: str = "p", **headers: str
    ) -> Answer:
        """Newline-delimited lines; strings go as they are."""
        body = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
        given = self._headers | {"X-Run-Id": str(run_id), "X-Project-Name": project} | headers
        return send(f"{self._urls.ingest}/ingest/{kind}", "POST", body, given)

    def presign(self, files: list[dict[str, Any]], run_id: int | str = 1, project: str = "p") -> Answer:
        """Ask for upload URLs."""
        headers = self._headers | {"X-Run-Id": str(run_id), "X-Project-Name": project}
        return self._json(f"{self._urls.ingest}/files", {"files": files}, headers)

    def _json(self, url: str, body: Any, headers: dict[str, str] | None = None) -> Answer:
        given = (headers or self._headers) | {"Content-Type": "application/json"}
        return send(url, "POST", json.dumps(body), given)


def point(step: int, value: float, time_ms: int | None = None, name: str = "m") -> dict[str, Any]:
    """A metrics line, now if no time is given."""
    return {
        "time": round(time.time() * 1000) if time_ms is None else time_ms,
        "step": step,
        "data": {name: value},
    }


@contextmanager
def in_background(act: Callable[[], Any]) -> Iterator[None]:
    """Do something in a thread beside the block; its error is raised at the end."""
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(act)
        yield
        done.result(PATIENCE_S)
