"""The one background thread of a process: speaks with the coordinator for all its leases.

`log()` never comes here. The thread beats, repeats what was not answered, starts a coordinator when nobody
answers, and wakes whoever waits for a view. It is a daemon and it never raises into nothing: a fault is kept
in `fault` and shown by the next call that waits.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Iterator

import zmq

from pluto_dist.client.lease import LeaseFiles
from pluto_dist.core.messages import (
    PROTOCOL,
    Answer,
    Question,
    Refusal,
    Reply,
    Sync,
    View,
)
from pluto_dist.core.secret import Secret
from pluto_dist.core.session import Session
from pluto_dist.errors import PlutoDistError, from_wire
from pluto_dist.node import stopped
from pluto_dist.node.identity import boot_clock
from pluto_dist.node.launch import claim_start, launch
from pluto_dist.node.places import Places
from pluto_dist.transport.client import DealerClient

_log = logging.getLogger("pluto_dist")


class Link:
    """One lease's connection.

    Args:
        places: of this node.
        files: of the lease.
        key: API key to hand over, None in local mode.
        heartbeat_s, idle_exit_s: settings.
        env: for a coordinator that has to be started.
    """

    def __init__(
        self,
        places: Places,
        files: LeaseFiles,
        *,
        key: Secret | None,
        heartbeat_s: float,
        idle_exit_s: float,
        env: dict[str, str],
    ) -> None:
        self._places = places
        self._files = files
        self._key = key
        self._idle_exit_s = idle_exit_s
        self._env = env
        self._session = Session(heartbeat_s, boot_clock(), listening=places.socket.exists())
        self._changed = threading.Condition()
        self._questions: dict[int, Question] = {}
        self._answers: dict[int, Answer | Refusal] = {}
        self._next_request = 1
        self._needs = 0
        self._wanted = 0
        self._asked = 0
        self._refreshed = 0
        self._hand_over_key = key is not None
        self._stop = False
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._on_view: Callable[[View], None] = lambda _: None
        self.fault: PlutoDistError | None = None
        self._thread = threading.Thread(target=self._run, name="pluto-dist", daemon=True)

    def start(self, on_view: Callable[[View], None]) -> None:
        """Begins to speak; `on_view` is called in the thread with each view."""
        self._on_view = on_view
        self._thread.start()

    @property
    def view(self) -> View | None:
        """What the coordinator said last."""
        return self._session.view

    def nudge(self) -> None:
        """There are new lifecycle entries."""
        self._session.wrote(self._files.lifecycle.written, boot_clock())
        self._wake()

    def wait(self, until: Callable[[View], bool], timeout_s: float) -> bool:
        """Waits for a view that satisfies `until`; False if the time is over.

        Raises:
            PlutoDistError: no coordinator can be had at all.
        """
        deadline = boot_clock() + timeout_s
        with self._changed, self._needed():
            while True:
                view = self._session.view
                if view is not None and until(view):
                    return True
                if self.fault is not None:
                    raise self.fault
                left = deadline - boot_clock()
                if left <= 0:
                    return False
                self._changed.wait(left)

    def settled(self, view: View) -> bool:
        """Whether all entries written so far have taken effect."""
        return view.folded >= self._files.lifecycle.written or view.state == "refused"

    def ask(self, make: Callable[[int], Question], timeout_s: float) -> bytes | None:
        """Asks a question; None if there was no answer in time.

        Raises:
            PlutoDistError: the coordinator refused it.
        """
        deadline = boot_clock() + timeout_s
        with self._changed, self._needed():
            number = self._next_request
            self._next_request += 1
            self._questions[number] = make(number)
            self._wake()
            while number not in self._answers:
                left = deadline - boot_clock()
                if left <= 0 or not self._changed.wait(left):
                    self._questions.pop(number, None)
                    return None
            answer = self._answers.pop(number)
        if isinstance(answer, Refusal):
            raise from_wire(answer.error, answer.message)
        return answer.body

    def refresh(self, timeout_s: float) -> bool:
        """Lets the coordinator say how things stand now; False if it did not in time."""
        with self._changed:
            self._wanted += 1
            wanted = self._wanted
        self._wake()
        return self.wait(lambda _: self._refreshed >= wanted, timeout_s)

    def close(self) -> None:
        """The lease has ended and nobody waits any more."""
        self._stop = True
        self._wake()

    @contextlib.contextmanager
    def _needed(self) -> Iterator[None]:
        """Somebody waits for the coordinator; held under the condition."""
        self._needs += 1
        try:
            yield
        finally:
            self._needs -= 1

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake_write, b"!")

    # --- the thread ------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._serve()
        except PlutoDistError as error:
            self._fail(error)
        except OSError as error:
            self._fail(PlutoDistError(f"the connection to the coordinator broke: {error}"))

    def _serve(self) -> None:
        client = DealerClient(self._places.socket)
        try:
            while not self._stop:
                client = self._turn(client)
        finally:
            client.close()

    def _turn(self, client: DealerClient) -> DealerClient:
        now = boot_clock()
        todo = self._session.next(now)
        if todo.reconnect:
            client.close()
            client = DealerClient(self._places.socket)
        if todo.launch:
            self._launch()
        if todo.send or self._wanted > self._asked:
            self._files.say_again()
            self._asked = self._wanted
            client.send(self._sync())
        self._ask_all(client)
        self._wait(client, max(0.0, self._session.deadline() - boot_clock()))
        return client

    def _wait(self, client: DealerClient, timeout_s: float) -> None:
        poller = zmq.Poller()
        poller.register(client.socket, zmq.POLLIN)
        poller.register(self._wake_read, zmq.POLLIN)
        poller.poll(int(min(timeout_s, 1.0) * 1000) + 1)
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake_read, 4096)
        while (reply := client.receive()) is not None:
            self._take(reply)

    def _take(self, reply: Reply) -> None:
        with self._changed:
            if isinstance(reply, View):
                if reply.lease_id == self._files.lease_id:
                    self._refreshed = max(self._refreshed, reply.request)
                    fresh = self._session.heard(reply, boot_clock())
                    self._hand_over_key = self._key is not None and (fresh or reply.key_wanted)
                    self._on_view(reply)
            elif reply.request:
                self._questions.pop(reply.request, None)
                self._answers[reply.request] = reply
            elif isinstance(reply, Refusal):
                self.fault = from_wire(reply.error, reply.message)
            self._changed.notify_all()

    def _sync(self) -> Sync:
        key = self._key.reveal() if self._key is not None and self._hand_over_key else ""
        return Sync(
            protocol=PROTOCOL,
            lease_id=self._files.lease_id,
            folder=str(self._files.folder),
            entries=self._files.lifecycle.written,
            request=self._wanted if self._wanted > self._refreshed else 0,
            key=key,
        )

    def _ask_all(self, client: DealerClient) -> None:
        with self._changed:
            questions = list(self._questions.values())
            self._questions.clear()
        for question in questions:
            client.send(question)

    def _launch(self) -> None:
        if stopped.is_left(self._places) and not self._needs:
            return
        if claim_start(self._places):
            stopped.clear(self._places)
            _log.debug("starting a coordinator in %s", self._places.runtime)
            launch(self._places, self._env, idle_exit_s=self._idle_exit_s)

    def _fail(self, error: PlutoDistError) -> None:
        with self._changed:
            self.fault = error
            self._changed.notify_all()
