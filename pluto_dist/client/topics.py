"""Hand-over between processes of a Run (R14): what this one publishes, and the loop that takes items.

An item that is published, and the end of work on one, is an entry in the lifecycle stream, for which nothing
is waited (G4); only the wait for the next item needs a coordinator.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import re
import socket
import stat
import sys
from collections.abc import Callable, Iterator
from typing import Any, Generic, Self, TypeVar

import msgspec

from pluto_dist.client.arguments import flag_of, plain_of, seconds_of
from pluto_dist.client.lease import Lease
from pluto_dist.client.link import Link
from pluto_dist.client.record import checked_step
from pluto_dist.client.values import NotAScalarError, first_line, scalar_of, shown
from pluto_dist.core.values.lifecycle import ItemDone, Published, Unsubscribed
from pluto_dist.core.values.messages import TakeItem
from pluto_dist.core.values.topics import CHECKPOINTS, MAX_PAYLOAD, TOPIC
from pluto_dist.errors import (
    ArgumentError,
    InvalidRecordError,
    RunEndedError,
    VersionMismatchError,
    WaitTimeoutError,
)
from pluto_dist.host.identity import boot_clock

OLDER = (
    "the coordinator that runs here is of an older version and hands nothing over; run `pluto-dist "
    "coordinator stop`, the next process starts one of its own version"
)
ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://")  # of a file that is no local one, e.g. in object storage
LONGEST_WAIT_S = 30.0  # then the question is put again, and what keeps it from an answer is told
SHORTEST_WAIT_S = 0.5  # what a coordinator may take to answer; without it a poll would never get anything

_log = logging.getLogger("pluto_dist")
_members = itertools.count(1)

T = TypeVar("T", bound="Item")


def publish(lease: Lease, topic: str, payload: object) -> None:
    """See `Run.publish`."""
    checked_topic(topic)
    if topic == CHECKPOINTS:
        raise ArgumentError(
            f"publish({CHECKPOINTS!r}, …): this topic has the checkpoints; use run.checkpoint(path, step), "
            "or another name",
            argument="topic",
        )
    _say(lease, f"publish({topic!r}, …)", topic, payload)


def checkpoint(lease: Lease, path: str | os.PathLike[str], step: int, info: dict[str, Any]) -> None:
    """See `Run.checkpoint`."""
    step = checked_step(step)
    try:
        named = os.fsdecode(path)
    except TypeError:
        raise ArgumentError(f"checkpoint({shown(path)}): pass a path", argument="path") from None
    elsewhere = ADDRESS.match(named) is not None
    named = named if elsewhere else os.path.abspath(named)  # noqa: PTH100 # text, handed on as it is
    why = "" if elsewhere else _unfit(named)
    if why:
        _refuse(lease, f"checkpoint({named!r}): {why}; it was not handed over")
        return
    payload = {"path": named, "step": step, **({"info": info} if info else {})}
    _say(lease, f"checkpoint({named!r})", CHECKPOINTS, payload)


def checked_topic(topic: object) -> str:
    """The name of a topic.

    Raises:
        ArgumentError: it is none.
    """
    if not isinstance(topic, str) or not re.match(TOPIC, topic):
        raise ArgumentError(
            f"topic={shown(topic)}: a topic has 1 to 64 letters, digits, '.', '_' or '-', and begins with a "
            "letter or digit",
            argument="topic",
        )
    return topic


def _unfit(path: str) -> str:
    """Why the path cannot be read, "" if it is a file or folder."""
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116 # as above
        path.encode()
    except FileNotFoundError:
        return "there is no such file or folder; call it when the checkpoint is complete"
    except UnicodeEncodeError:
        return "its name is no UTF-8"
    except (OSError, ValueError) as error:
        return f"it cannot be looked at ({first_line(error)})"
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        return "it is neither a file nor a folder"
    return "" if os.access(path, os.R_OK) else "it may not be read"


def _say(lease: Lease, call: str, topic: str, payload: object) -> None:
    try:
        body = msgspec.json.encode(payload, enc_hook=_plain)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        _refuse(lease, f"{call}: the payload has no JSON form ({first_line(error)}); it was not published")
        return
    if len(body) > MAX_PAYLOAD:
        _refuse(
            lease,
            f"{call}: the payload has {len(body)} bytes of JSON, the limit is {MAX_PAYLOAD}; it was not "
            "published. Write it into a file and publish the path",
        )
        return
    lease.change(Published(**lease.stamp(), topic=topic, payload=msgspec.Raw(body)))
    tell_of_nodes(lease)
    if is_older(lease):
        lease.warn_once("older", f"{OLDER}. What is handed over until then is lost")


def is_older(lease: Lease) -> bool:
    """Whether the coordinator knows nothing of hand-over."""
    view = lease.link.view
    return view is not None and view.state == "active" and not view.topics


def tell_of_nodes(lease: Lease) -> None:
    """Warns, in a job of several nodes, that a hand-over ends at the node."""
    view = lease.link.view
    if view is not None and view.run is not None and view.run.relay and not view.run.hands_over:
        lease.warn_once(
            "hand-over",
            f"another node owns this Run: what is handed over on this one ({view.run.relay}) stays here, and "
            "what is handed over there does not come here. Start trainer and eval on one node, or name a "
            "cluster store to both (PLUTO_DIST_CLUSTER), and the Run by its run_id",
        )


def _refuse(lease: Lease, message: str) -> None:
    """Warns once of a value that is left out, as `log()` does.

    Raises:
        InvalidRecordError: with `strict`.
    """
    if lease.settings.strict:
        raise InvalidRecordError(message)
    lease.warn_once(message, message)


def _plain(value: Any) -> object:
    """A plain form of values that are no JSON: scalars of numpy and torch, paths, sets."""
    if isinstance(value, os.PathLike):
        return os.fsdecode(value)
    try:
        plain = scalar_of(value)
    except NotAScalarError as error:
        raise TypeError(f"{shown(value)}: {error}") from error
    if plain is None:
        raise TypeError(shown(value))
    return plain


class Item:
    """An item that a process of the Run has published.

    Attributes:
        topic: under which it was published.
        number: counted from 1 in its topic, over all processes of the Run.
        payload: as JSON gives it back.
        at: when it was published, epoch seconds.
        by: label of the process that did.
    """

    def __init__(self, topic: str, number: int, payload: Any, at: float, by: str, lease: Lease, group: str):
        self.topic = topic
        self.number = number
        self.payload = payload
        self.at = at
        self.by = by
        self._lease = lease
        self._group = group
        self._is_done = False

    def done(self) -> None:
        """Marks the item as done by this process; taking the next one does so, too.

        The mark survives the death of the process. A second call, or one after the end of the lease, does
        nothing.
        """
        if self._is_done or self._lease.end or not self._lease.here:
            return
        self._is_done = True
        stamp = self._lease.stamp()
        self._lease.say(ItemDone(**stamp, topic=self.topic, number=self.number, group=self._group))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.number} of {self.topic}>"


class Checkpoint(Item):
    """A checkpoint that the training has handed over.

    Attributes:
        path: absolute; a file or a folder, as on the host that handed it over. Whether it is still there is
            the training's affair.
        step: of the training.
        info: what the training said about it.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.path: str = self.payload["path"]
        self.step: int = self.payload["step"]
        self.info: dict[str, Any] = self.payload.get("info", {})

    def __repr__(self) -> str:
        return f"<Checkpoint {self.number}: {self.path}, step {self.step}>"


class Bounds(msgspec.Struct, frozen=True):
    """Options of a subscription.

    Attributes:
        group: that shares the topic, "" for none.
        latest: only the newest item each time.
        timeout_s: how long to wait for the next one, None for as long as the Run goes on.
    """

    group: str
    latest: bool
    timeout_s: float | None


def bounds_of(group: object, latest: object, timeout_s: object) -> Bounds:
    """See `Run.checkpoints`.

    Raises:
        ArgumentError: as there.
    """
    return Bounds(
        "" if group is None else _name_of("group", group),
        flag_of("latest", latest),
        None if timeout_s is None else seconds_of("timeout_s", timeout_s),
    )


class Subscription(Generic[T]):
    """The items of one topic, one after the other, as they come.

    It ends when the Run has ended and all items are done. An item that was taken is done when the next one is
    asked for, or by its `done()`. An item that is not done when the loop is left, or its process dies, is
    given again.
    """

    def __init__(self, lease: Lease, topic: str, make: Callable[..., T], bounds: Bounds) -> None:
        self._lease = lease
        self._link: Link = lease.link
        self._topic = topic
        self._make = make
        self._group = bounds.group
        self._latest = bounds.latest
        self._timeout_s = (
            bounds.timeout_s if bounds.timeout_s is None else max(bounds.timeout_s, SHORTEST_WAIT_S)
        )
        self._member = next(_members)
        self._item: T | None = None
        self._over = False
        self._pid = os.getpid()

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        """The next item; waits for it.

        Raises:
            StopIteration: the Run has ended, and all items are done.
            WaitTimeoutError: none came within `timeout_s`; the Run goes on, and so may this loop.
            RunEndedError: this process has closed the Run, or is a forked child.
        """
        if self._over:
            raise StopIteration
        if self._item is not None:
            self._item.done()
            self._item = None
        while True:
            answer = self._ask(None if self._timeout_s is None else boot_clock() + self._timeout_s)
            if answer.get("ended"):
                self._over = True
                self._tell_gone(answer["gone"])
                raise StopIteration
            item = self._made(answer)
            if item is not None:
                self._item = item
                return item

    def close(self) -> None:
        """Leaves the loop, as `break` does: an item that is not done is given again."""
        if self._over or self._pid != os.getpid():
            return
        self._over = True
        if not self._lease.end:
            stamp = self._lease.stamp()
            self._lease.say(Unsubscribed(**stamp, topic=self._topic, member=self._member, group=self._group))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        """Leaves a loop that ended by `break` or an exception; the end of the process needs no entry."""
        if not is_finalizing() and hasattr(self, "_member"):
            self.close()

    def _ask(self, deadline: float | None) -> dict[str, Any]:
        while True:
            self._check()
            left = LONGEST_WAIT_S if deadline is None else min(deadline - boot_clock(), LONGEST_WAIT_S)
            written = self._written(max(0.0, left))
            answer = self._link.ask(self._question, max(0.0, left)) if written else None
            if answer is not None:
                found: dict[str, Any] = json.loads(answer)
                return found
            self._check()
            if self._link.fault is not None:
                self._lease.warn_once("no items", f"no items come: {self._link.fault}")
            if deadline is not None and boot_clock() >= deadline:
                raise WaitTimeoutError(
                    f"nothing new in {self._topic!r} within {self._timeout_s:g} s; the Run has not ended"
                )

    def _question(self, number: int) -> TakeItem:
        return TakeItem(
            request=number,
            lease_id=self._lease.lease_id,
            topic=self._topic,
            member=self._member,
            entries=self._lease.files.lifecycle.written,
            group=self._group,
            latest=self._latest,
        )

    def _written(self, timeout_s: float) -> bool:
        """Whether the marks of earlier items are on disk; otherwise those would be given again."""
        if not self._lease.files.unsaid:
            return True
        return self._link.wait(lambda _: not self._lease.files.unsaid, timeout_s)

    def _check(self) -> None:
        """Checks that this process can get items.

        Raises:
            RunEndedError, VersionMismatchError: they cannot.
        """
        if not self._lease.here:
            raise RunEndedError(
                f"subscribe({self._topic!r}) in a child that was forked after init(): attach() there"
            )
        if self._lease.end:
            raise RunEndedError(f"this process has {self._lease.end} the Run, so it gets no items any more")
        if is_older(self._lease):
            raise VersionMismatchError(OLDER)
        tell_of_nodes(self._lease)
        view = self._link.view
        if view is not None and view.role == "side" and not (self._group or self._lease.named):
            self._lease.warn_once(
                "no label",
                "a process without a label begins with the first item at each start; attach(label=…) goes on "
                "where it stopped",
            )

    def _made(self, answer: dict[str, Any]) -> T | None:
        """The item of an answer; None, with a warning, for a damaged one, so that the loop goes on."""
        number, item = answer["number"], answer["item"]
        group = self._group
        try:
            at = item["at_ms"] / 1000
            made = self._make(self._topic, number, item["payload"], at, item["by"], self._lease, group)
        except (KeyError, TypeError):
            self._lease.warn_once(
                f"item:{self._topic}:{number}",
                f"item {number} of {self._topic!r} cannot be read and is passed over"
                + ("" if item is None else f": it is {shown(item.get('payload'))}"),
            )
            Item(self._topic, number, None, 0.0, "", self._lease, group).done()
            return None
        if isinstance(made, Checkpoint):
            self._tell_absent(made, item.get("host", ""))
        return made

    def _tell_absent(self, checkpoint: Checkpoint, host: str) -> None:
        """Warns of a path that another host has handed over and that this one does not have."""
        path, here = checkpoint.path, socket.gethostname()
        if host in ("", here) or ADDRESS.match(path) or os.path.exists(path):  # noqa: PTH110 # as it is
            return
        self._lease.warn_once(
            "absent",
            f"checkpoint {checkpoint.number}: {path} is not on this host ({here}); {checkpoint.by} on {host} "
            "has handed it over. A path goes on as it is: save where both hosts see it, or hand over an "
            "address (s3://…)",
        )

    def _tell_gone(self, gone: int) -> None:
        if gone:
            _log.warning(
                "%d items of %r were handed over long ago; this coordinator does not have them any more",
                gone,
                self._topic,
            )


def _name_of(argument: str, value: object) -> str:
    """The name of a group.

    Raises:
        ArgumentError: it is none.
    """
    plain = plain_of(argument, value)
    if not isinstance(plain, str) or not 0 < len(plain) <= 100 or not plain.isprintable():
        raise ArgumentError(
            f"{argument}={shown(value)}: a name has 1 to 100 printable characters", argument=argument
        )
    return plain
