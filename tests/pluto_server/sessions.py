"""One run and two senders, for the tests of client defects."""

import time
from dataclasses import dataclass
from typing import Any

from .server import PlutoServer
from .talk import Client, point, send

NOW = int(time.time() * 1000)
LOG = {"time": NOW, "message": "m", "lineNumber": 1, "logType": "INFO"}
FILE = {"fileName": "a", "logName": "f", "fileSize": 3, "fileType": "bin", "step": 0, "time": NOW}


@dataclass
class Session:
    """One run and two senders that write into it."""

    server: PlutoServer
    one: Client
    two: Client
    run_id: int

    def metric(self, step: int = 1, value: float = 1.0, name: str = "m", time_ms: int = NOW) -> None:
        """One point."""
        line = point(step, value, time_ms, name)
        assert self.one.ingest("metrics", [line], self.run_id).status == 200

    def status(self, status: str) -> None:
        """A report."""
        assert self.one.api("status/update", runId=self.run_id, status=status).status == 200

    def upload(self, body: bytes = b"abc", **changes: Any) -> None:
        """Presign and PUT."""
        [[entry]] = self.one.presign([FILE | changes], self.run_id).json.values()
        [url] = entry.values()
        assert send(url, "PUT", body).status == 200

    def register(self, name: str, log_type: str) -> None:
        """Announce a name."""
        assert self.one.api("logName/add", runId=self.run_id, logName=[name], logType=log_type).status == 200

    def advance(self, seconds: float) -> None:
        """Let the server's time pass."""
        self.server.operator.advance(seconds)
