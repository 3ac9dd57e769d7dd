"""Driving the emulator from other processes: its process, and its control interface."""

import base64
import json
import os
import selectors
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.patience import PATIENCE_S

from .defects import Defect
from .operator import Points, Rows
from .server import KEY, Urls

_ROOT = Path(__file__).parents[2]


class ControlError(Exception):
    """The control interface refused a call; the message says why."""


class Control:
    """The operations of `Operator` over HTTP; predicates stay with the in-process one."""

    def __init__(self, url: str) -> None:
        self.url = url
        # No proxy of the environment stands between the test and loopback.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def add_fault(self, **fields: Any) -> int:
        """Arm a fault (the fields of `faults.Fault`); its id."""
        fault_id: int = self._call("add_fault", **fields)
        return fault_id

    def remove_fault(self, fault_id: int | None = None) -> None:
        """Disarm one fault, or all."""
        self._call("remove_fault", fault_id=fault_id)

    def faults(self) -> Rows:
        """The armed faults and their hits."""
        return self._rows("faults")

    def seed_faults(self, seed: int) -> None:
        """Start the dice of probable faults anew."""
        self._call("seed_faults", seed=seed)

    def configure(self, **settings: float) -> None:
        """Change read_lag_s, race_window or url_life_s."""
        self._call("configure", **settings)

    def set_at_limit(self, at_limit: bool) -> None:
        """Whether the organization may create no more runs."""
        self._call("set_at_limit", at_limit=at_limit)

    def now_ms(self) -> int:
        """The server's time."""
        now: int = self._call("now_ms")
        return now

    def advance(self, seconds: float) -> int:
        """Move the server's time; the new one."""
        now: int = self._call("advance", seconds=seconds)
        return now

    def monitor_cycle(self) -> list[int]:
        """Run the stale-run monitor once; the runs it marked FAILED."""
        failed: list[int] = self._call("monitor_cycle")
        return failed

    def cancel(self, run_id: int) -> None:
        """Press the stop button of a run: the next poll cancels it."""
        self._call("cancel", run_id=run_id)

    def delete(self, run_id: int) -> None:
        """See `Operator.delete`."""
        self._call("delete", run_id=run_id)

    def set_status(self, run_id: int, status: str) -> None:
        """See `Operator.set_status`."""
        self._call("set_status", run_id=run_id, status=status)

    def set_tags(self, run_id: int, tags: list[str]) -> None:
        """See `Operator.set_tags`."""
        self._call("set_tags", run_id=run_id, tags=tags)

    def add_points(self, run_id: int, name: str, points: list[tuple[int, int, float]]) -> None:
        """Put points (step, time, value) into the store, past the ingest service."""
        self._call("add_points", run_id=run_id, name=name, points=points)

    def expire_urls(self) -> None:
        """All presigned URLs are out of date."""
        self._call("expire_urls")

    def runs(self) -> Rows:
        """All runs, oldest first."""
        return self._rows("runs")

    def run(self, run_id: int) -> dict[str, Any]:
        """One run."""
        row: dict[str, Any] = self._call("run", run_id=run_id)
        return row

    def history(self, run_id: int) -> Rows:
        """Status events by time."""
        return self._rows("history", run_id=run_id)

    def metrics(self, run_id: int) -> Points:
        """The points that readers see, by name and step."""
        return _points(self._call("metrics", run_id=run_id))

    def raw_metrics(self, run_id: int) -> Points:
        """Every accepted point in order of arrival."""
        return _points(self._call("raw_metrics", run_id=run_id))

    def metric_counts(self, run_id: int) -> dict[str, int]:
        """Accepted points by name; cheap enough to poll."""
        counts: dict[str, int] = self._call("metric_counts", run_id=run_id)
        return counts

    def data(self, run_id: int) -> Rows:
        """Every accepted data row."""
        return self._rows("data", run_id=run_id)

    def logs(self, run_id: int) -> Rows:
        """Every accepted console row."""
        return self._rows("logs", run_id=run_id)

    def files(self, run_id: int) -> Rows:
        """Every file row, uploaded or not."""
        return self._rows("files", run_id=run_id)

    def objects(self) -> dict[str, dict[str, Any]]:
        """The stored objects by key: size and SHA-256."""
        stored: dict[str, dict[str, Any]] = self._call("objects")
        return stored

    def object_base64(self, key: str) -> str:
        """The bytes of an object, encoded."""
        text: str = self._call("object_base64", key=key)
        return text

    def object_bytes(self, key: str) -> bytes:
        """The bytes of an object."""
        return base64.b64decode(self.object_base64(key))

    def addresses(self) -> list[tuple[str, str, int]]:
        """Every (tenant, project, run id) that data was sent to."""
        return [(tenant, project, run_id) for tenant, project, run_id in self._call("addresses")]

    def requests(self, since_id: int = 0) -> Rows:
        """The journal: every request after the given id."""
        return self._rows("requests", since_id=since_id)

    def check(self) -> list[Defect]:
        """Also look for what only shows when the client is done; all findings."""
        return _defects(self._call("check"))

    def defects(self, kinds: list[str] | None = None) -> list[Defect]:
        """The findings so far that nothing waives."""
        return _defects(self._call("defects", kinds=kinds))

    def waived(self) -> list[Defect]:
        """The findings that a waiver covers."""
        return _defects(self._call("waived"))

    def waive(self, kind: str, name: str = "*", run_id: int | None = None, text: str = "*") -> None:
        """Expect findings of a kind, of names and texts like patterns, or for one run."""
        self._call("waive", kind=kind, name=name, run_id=run_id, text=text)

    def clear_defects(self) -> None:
        """Forget the findings; waivers stay."""
        self._call("clear_defects")

    def crashes(self) -> list[str]:
        """Faults of the emulator itself."""
        found: list[str] = self._call("crashes")
        return found

    def _rows(self, operation: str, /, **arguments: Any) -> Rows:
        rows: Rows = self._call(operation, **arguments)
        return rows

    def _call(self, operation: str, /, **arguments: Any) -> Any:
        request = urllib.request.Request(
            f"{self.url}/{operation}", json.dumps(arguments).encode(), method="POST"
        )
        try:
            with self._opener.open(request, timeout=PATIENCE_S) as response:
                return json.load(response)
        except urllib.error.HTTPError as refusal:
            with refusal:
                raise ControlError(refusal.read().decode()) from None


def _points(found: dict[str, list[list[Any]]]) -> Points:
    return {name: [(step, time, value) for step, time, value in points] for name, points in found.items()}


def _defects(found: Rows) -> list[Defect]:
    return [Defect(**(row | {"names": tuple(row["names"])})) for row in found]


class ServerProcess:
    """The emulator as a process of its own; killed at the end of the `with` block, whatever happened."""

    key = KEY

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self.urls: Urls
        self.control: Control

    @property
    def pid(self) -> int:
        """The server's process id."""
        if self._process is None:
            raise RuntimeError("the server is not running; use it in a `with` block")
        return self._process.pid

    def env(self) -> dict[str, str]:
        """The environment that points a client here."""
        return self.urls.env()

    def start(self) -> None:
        """Start the process and wait until it listens."""
        read_fd, write_fd = os.pipe()
        command = [sys.executable, "-m", "tests.pluto_server", "--ready-fd", str(write_fd)]
        with os.fdopen(read_fd, "rb") as ready:
            try:
                self._process = subprocess.Popen(
                    command, cwd=_ROOT, pass_fds=(write_fd,), stdin=subprocess.DEVNULL
                )
            finally:
                os.close(write_fd)
            line = self._ready_line(ready)
        self.urls = Urls(**json.loads(line))
        self.control = Control(self.urls.control)

    def stop(self) -> None:
        """Kill the process by its id."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _ready_line(self, ready: Any) -> bytes:
        with selectors.DefaultSelector() as selector:
            selector.register(ready, selectors.EVENT_READ)
            line: bytes = ready.readline() if selector.select(PATIENCE_S) else b""
        if not line:
            self.stop()
            raise TimeoutError(f"the server did not listen within {PATIENCE_S:g} s")
        return line

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            crashes = self.control.crashes() if error is None and self._process is not None else []
        finally:
            self.stop()
        if crashes:
            raise RuntimeError(f"handlers of the emulator crashed: {crashes}")
