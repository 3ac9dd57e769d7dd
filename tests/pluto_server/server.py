"""The running emulator: four services and the control interface, each on a port of its own."""

import itertools
import threading
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from . import api, ingest, py_service, storage
from .clock import Clock
from .control import control_answer
from .core import Core
from .faults import FaultPlan
from .front import Front
from .operator import Operator
from .state import APP_URL, State

KEY = "mlps_GOOD"


@dataclass(frozen=True, slots=True)
class Urls:
    """Base URLs without a slash at the end."""

    api: str
    ingest: str
    py: str
    storage: str
    control: str
    app: str = APP_URL

    def env(self, key: str = KEY) -> dict[str, str]:
        """The environment that points a client here."""
        return {
            "PLUTO_API_KEY": key,
            "PLUTO_URL_APP": self.app,
            "PLUTO_URL_API": self.api,
            "PLUTO_URL_INGEST": self.ingest,
            "PLUTO_URL_PY": self.py,
        }


class PlutoServer:
    """The emulator in this process, listening on loopback between `start` and `stop`.

    Leaving the `with` block fails when a handler of the emulator itself has crashed.
    """

    key = KEY

    def __init__(self, clock: Clock | None = None) -> None:
        self.state = State(clock)
        self.faults = FaultPlan()
        self._crashes: list[BaseException] = []
        self._threads: list[threading.Thread] = []
        core = Core(self.state)
        self.operator = Operator(core, self.faults, self._crashes)
        ids = itertools.count(1)
        services = {
            "api": api.handle,
            "ingest": ingest.handle,
            "py": py_service.handle,
            "storage": storage.handle,
        }
        self._fronts = [
            Front(name, core, self.faults, answer, ids=ids, crashes=self._crashes)
            for name, answer in services.items()
        ]
        self._fronts.append(self._control_front())
        self.urls = Urls(*(front.url for front in self._fronts))
        self.state.storage_url = self.urls.storage

    def _control_front(self) -> Front:
        # The operator's own requests are neither journalled with the clients' nor hit by faults.
        answer = control_answer(self.operator)
        return Front(
            "control", Core(State()), FaultPlan(), answer, ids=itertools.count(1), crashes=self._crashes
        )

    def env(self) -> dict[str, str]:
        """The environment that points a client here."""
        return self.urls.env()

    def start(self) -> None:
        """Answer requests."""
        for front in self._fronts:
            thread = threading.Thread(target=front.serve, name=f"pluto-{front.name}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """Close the sockets; no request waits any more."""
        self.faults.remove()
        for front in self._fronts:
            front.stop()
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        if self._crashes and error is None:
            raise RuntimeError(f"{len(self._crashes)} handler(s) of the emulator crashed") from self._crashes[
                0
            ]
