"""The link: a lease's background thread, which talks with the coordinator.

`log()` does not use it. The thread sends heartbeats, repeats what was not answered, starts a coordinator when
none answers, and wakes calls that wait for a view; `core/rules/session.py` decides when. It is a daemon
thread, and its errors are not lost: why no coordinator can be had is kept in `fault` and raised by calls that
wait, while the thread goes on trying; the first view clears it.

Questions have numbers, which tell their answers apart; one without an answer is asked again, because a
coordinator that died has forgotten it.
"""

from __future__ import annotations

import contextlib
import os
import posix
import sys
import threading
from collections.abc import Callable, Iterator

import zmq

from pluto_dist.client.green import wait_for_message, wait_readable
from pluto_dist.client.lease_files import DropReport, LeaseFiles
from pluto_dist.core.rules.session import Session
from pluto_dist.core.values.messages import PROTOCOL, Answer, Question, Refusal, Reply, Sync, View
from pluto_dist.errors import CoordinatorUnavailableError, MachineError, PlutoDistError, from_wire
from pluto_dist.host.identity import boot_clock
from pluto_dist.host.launch import log_tail, someone_listens, start_if_absent
from pluto_dist.host.places import Places
from pluto_dist.secret import Secret
from pluto_dist.spool.writer import follow_forks
from pluto_dist.transport.zeromq import DealerClient

AGAIN_S = 1.0  # after a fault of the machine, and how often the disk is asked to take what it refused


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
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._places = places
        self._files = files
        self._key = key
        self._idle_exit_s = idle_exit_s
        self._env = env
        self._session = Session(heartbeat_s, boot_clock(), listening=someone_listens(places.socket))
        self._drops = DropReport(files)
        self._changed = threading.Condition()
        self._questions = Questions()
        self._needs = 0
        self._wanted = 0
        self._refreshed = 0
        self._hand_over_key = key is not None
        self._stop = False
        self._on_view: Callable[[View], None] = _ignore
        self.fault: PlutoDistError | None = None
        self._thread = threading.Thread(target=self._run, name="pluto-dist", daemon=True)
        follow_forks(self)

    def start(self, on_view: Callable[[View], None]) -> None:
        """Starts the thread; `on_view` is called in it with each view."""
        self._on_view = on_view
        self._session.wrote(self._files.lifecycle.written, boot_clock())
        try:
            self._thread.start()
        except RuntimeError as error:  # a limit of processes; what is written is taken up by the next one
            self.fault = CoordinatorUnavailableError(f"nothing can speak with a coordinator here: {error}")

    @property
    def view(self) -> View | None:
        """The latest view, None before the first."""
        return self._session.view

    def nudge(self) -> None:
        """Has the thread announce new lifecycle entries."""
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
                    raise from_wire(self.fault.code, self.fault.message, self.fault.fields)
                left = deadline - boot_clock()
                if left <= 0 or not self.speaks:
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
            number = self._questions.put(make)
            self._speak()
            while (answer := self._questions.answer(number)) is None:
                left = deadline - boot_clock()
                if left <= 0 or not self.speaks:
                    self._questions.give_up(number)
                    return None
                self._changed.wait(left)
        if isinstance(answer, Refusal):
            raise from_wire(answer.error, answer.message)
        return answer.body

    def ask_alone(self, question: Question, timeout_s: float) -> bytes | None:
        """Asks after the end, over a connection of its own; None without an answer in time.

        Raises:
            PlutoDistError: the coordinator refused it.
        """
        if not someone_listens(self._places.socket):
            return None
        client = DealerClient(self._places.socket)
        try:
            reply = client.ask(question, timeout_s)
        finally:
            client.close()
        if isinstance(reply, Refusal):
            raise from_wire(reply.error, reply.message)
        return reply.body if reply is not None else None

    def refresh(self, timeout_s: float) -> bool:
        """Gets a new view from the coordinator; False if none came in time."""
        with self._changed:
            wanted = self._wanted = self._questions.next_number()
        self._speak()
        try:
            return self.wait(lambda _: self._refreshed >= wanted, timeout_s)
        except MachineError:
            return False

    def unanswered(self, waited_s: float) -> CoordinatorUnavailableError:
        """The error for a coordinator that was started and does not answer, with the end of its log."""
        log = self._places.log
        return CoordinatorUnavailableError(
            f"no coordinator answered within {waited_s:g} s; end of {log}:\n{log_tail(log)}", log=str(log)
        )

    def close(self) -> None:
        """Ends the thread, which gives the connection back, after the end of the lease."""
        self._stop = True
        self._wake()

    def after_fork(self) -> None:
        """In a forked child: the thread is not there, and it may have held the lock."""
        self._changed = threading.Condition()

    @property
    def speaks(self) -> bool:
        """Whether an answer may come: not after the end, and not in a forked child."""
        return not self._stop and self._thread.is_alive()

    @contextlib.contextmanager
    def _needed(self) -> Iterator[None]:
        """Marks that a call waits for the coordinator; entered under the condition."""
        self._needs += 1
        try:
            yield
        finally:
            self._needs -= 1

    def __del__(
        self,
        close: Callable[[int], None] = os.close,
        is_finalizing: Callable[[], bool] = sys.is_finalizing,
    ) -> None:
        """Closes the pipe, only now: `_wake` is called by signal handlers too and takes no lock.

        At the end of the interpreter the kernel closes it: globals of modules may be gone before the last
        objects, so what is needed here is bound here.
        """
        if not is_finalizing() and hasattr(self, "_wake_write"):
            close(self._wake_read)
            close(self._wake_write)

    def _speak(self) -> None:
        """Has a `Sync` sent for a call that waits, and a coordinator started before the call can fail."""
        self.fault = None
        self._session.speak(boot_clock())
        self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            posix.write(self._wake_write, b"!")  # that of `os` may be eventlet's, which waits

    # --- the thread ------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stop:
            try:
                self._serve()
            except (OSError, zmq.ZMQError) as error:
                self._fail(CoordinatorUnavailableError(f"the connection to the coordinator broke: {error}"))
                wait_readable((self._wake_read,), AGAIN_S)
        self._on_view = _ignore

    def _serve(self) -> None:
        client = DealerClient(self._places.socket)
        try:
            while not self._stop:
                todo = self._session.next(boot_clock())
                if todo.reconnect:
                    client.close()
                    client = DealerClient(self._places.socket)
                if todo.launch:
                    self._launch()
                if todo.send:
                    self._say_all(client)
                self._wait(client, max(0.0, self._session.deadline() - boot_clock()))
                self._look_at_files()
        finally:
            client.close()

    def _wait(self, client: DealerClient, timeout_s: float) -> None:
        if wait_for_message(client.sockets, self._wake_read, min(timeout_s, AGAIN_S)):
            posix.read(self._wake_read, 4096)
        while (reply := client.receive()) is not None:
            self._take(reply)
        if client.broke():
            self._session.lost(boot_clock())

    def _look_at_files(self) -> None:
        """Tries entries again that the disk refused, syncs, and warns of lost records."""
        self._drops.look()
        self._files.sync_if_due(boot_clock())
        if self._files.unsaid:
            self._files.say_again()
        if self._files.lifecycle.written > self._session.entries:
            self._session.wrote(self._files.lifecycle.written, boot_clock())

    def _take(self, reply: Reply) -> None:
        with self._changed:
            if isinstance(reply, View):
                if reply.lease_id == self._files.lease_id:
                    self._refreshed = max(self._refreshed, reply.request)
                    self._session.take_view(reply, boot_clock())
                    self._key_is_wanted(reply.key_wanted)
                    self.fault = None
                    self._on_view(reply)
            elif not self._questions.take(reply) and isinstance(reply, Refusal):
                self.fault = from_wire(reply.error, reply.message)
            self._changed.notify_all()

    def _key_is_wanted(self, wanted: bool) -> None:
        """Sends the key with each `Sync` until the coordinator has it: one that was started anew has none."""
        if self._key is None:
            return
        if wanted and not self._hand_over_key:
            self._session.speak(boot_clock())
        self._hand_over_key = wanted

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

    def _say_all(self, client: DealerClient) -> None:
        with self._changed:
            questions = self._questions.open()
        client.send(self._sync())
        for question in questions:
            client.send(question)

    def _launch(self) -> None:
        try:
            needed = self._needs > 0
            if start_if_absent(self._places, self._env, idle_exit_s=self._idle_exit_s, needed=needed):
                self._session.found(boot_clock())
        except PlutoDistError as error:
            self._fail(error)

    def _fail(self, error: PlutoDistError) -> None:
        with self._changed:
            self.fault = error
            self._changed.notify_all()


def _ignore(view: View) -> None:
    """Ignores a view, before `start` and after `close`."""


class Questions:
    """Questions without an answer; one object per link, used under its condition. All may be repeated."""

    def __init__(self) -> None:
        self._number = 0
        self._open: dict[int, Question] = {}
        self._answers: dict[int, Answer | Refusal] = {}

    def next_number(self) -> int:
        """A number that nothing else on this link has."""
        self._number += 1
        return self._number

    def put(self, make: Callable[[int], Question]) -> int:
        """A new question; returns its number."""
        number = self.next_number()
        self._open[number] = make(number)
        return number

    def open(self) -> list[Question]:
        """Questions to send: new ones, and old ones that a coordinator which died has forgotten."""
        return list(self._open.values())

    def take(self, reply: Answer | Refusal) -> bool:
        """Keeps an answer; False if it belongs to no open question."""
        if self._open.pop(reply.request, None) is None:
            return False
        self._answers[reply.request] = reply
        return True

    def answer(self, number: int) -> Answer | Refusal | None:
        """The answer, once."""
        return self._answers.pop(number, None)

    def give_up(self, number: int) -> None:
        """Forgets a question for which no call waits any more."""
        self._open.pop(number, None)
