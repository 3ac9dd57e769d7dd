"""What a process hands over (R14): one entry in its lifecycle stream, with nobody waited for (G4)."""

from __future__ import annotations

import os
import re
import stat
from typing import Any

import msgspec

from pluto_dist.client.lease import Lease
from pluto_dist.client.record import checked_step
from pluto_dist.client.values import NotAScalarError, first_line, scalar_of, shown
from pluto_dist.core.values.lifecycle import Published
from pluto_dist.core.values.topics import CHECKPOINTS, MAX_PAYLOAD, TOPIC
from pluto_dist.errors import ArgumentError, InvalidRecordError

OLDER = (
    "the coordinator that runs here is of an older version and hands nothing over; run `pluto-dist "
    "coordinator stop`, the next process starts one of its own version"
)
ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://")  # of a file that is no local one, e.g. in object storage


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
