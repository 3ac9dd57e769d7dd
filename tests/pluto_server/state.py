"""The whole state of the emulated server: stores, clock, lock, settings. No sockets.

Handlers take `lock` for each step that the real server does in one transaction, and not longer; `window`
marks the places where the real server lets others in between.
"""

import threading
from dataclasses import dataclass

from tests.patience import PATIENCE_S

from .clock import Clock
from .defects import DefectLog
from .journal import Journal
from .metrics import MetricStore
from .objects import PUT_LIFE_S, ObjectStore
from .rows import DataRow, FileRow, LogRow, RowStore
from .runs import RunBook
from .tenants import KeyRing

APP_URL = "http://app.invalid"


@dataclass(slots=True)
class Settings:
    """What tests may change while the server runs; durations in seconds.

    Attributes:
        race_window: so many requests, the next ones that come to a window, go on from there together.
    """

    read_lag_s: float = 0.0
    race_window: int = 0
    url_life_s: float = PUT_LIFE_S
    index_lag_s: float = 0.0


class State:
    """Everything the server knows."""

    def __init__(self, clock: Clock | None = None) -> None:
        self.clock = clock or Clock()
        self.settings = Settings()
        self.lock = threading.RLock()
        self.keys = KeyRing()
        self.book = RunBook()
        self.metrics = MetricStore()
        self.data: RowStore[DataRow] = RowStore()
        self.logs: RowStore[LogRow] = RowStore()
        self.files: RowStore[FileRow] = RowStore()
        self.objects = ObjectStore()
        self.storage_url = "http://storage.invalid"
        self.defects = DefectLog()
        self.journal = Journal()
        self._windows = threading.Condition()

    def now_ms(self) -> int:
        """The server's time."""
        return self.clock.now_ms()

    def window(self) -> None:
        """Where the real server does not hold a lock: requests that race meet here."""
        with self._windows:
            if self.settings.race_window:
                self.settings.race_window -= 1
                self._windows.notify_all()
                assert self._windows.wait_for(lambda: not self.settings.race_window, PATIENCE_S)

    def visible_ms(self) -> int | None:
        """When rows accepted now reach readers; None: at once."""
        lag = self.settings.read_lag_s
        return self.now_ms() + round(lag * 1000) if lag else None
