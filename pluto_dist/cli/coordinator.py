"""`pluto-dist coordinator start|stop|status|logs`: the one process per node and user.

JSON of `status`:
    running, pid, generation, protocol, runtime, socket, log, runs, live_runs, leases, started_at, uptime_s,
    stopped, key_from
where `leases` are attached processes, `started_at` is in epoch milliseconds, `stopped` says that it was
stopped on purpose, and `key_from` where the API key is from that `start` has handed over. Without a
coordinator the numbers are null, and the exit code is 3, as of a service.
`start` and `stop` print the same with `--json`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec

from pluto_dist.cli.console import note, print_json, span
from pluto_dist.cli.options import Home, Json, Option, echo
from pluto_dist.core.values.messages import AskStatus, StopCoordinator
from pluto_dist.errors import WaitTimeoutError
from pluto_dist.host import launch
from pluto_dist.host.identity import identity_of
from pluto_dist.host.places import find_places
from pluto_dist.read.ask import ask, ensure_running, hand_over_key, listener
from pluto_dist.read.lookup import reading_settings

if TYPE_CHECKING:
    from pluto_dist.host.places import Places
    from pluto_dist.read.ask import Listener

NOT_RUNNING = 3  # as of `systemctl status`
STOP_S = 30.0  # it finishes the requests in flight first
POLL_S = 0.02
FOLLOW_S = 0.2


class State(msgspec.Struct, frozen=True, kw_only=True):
    """The output of `status`; see the module's docstring."""

    running: bool
    pid: int | None = None
    generation: int | None = None
    protocol: int | None = None
    runtime: str
    socket: str
    log: str
    runs: int | None = None
    live_runs: int | None = None
    leases: int | None = None
    started_at: int | None = None
    uptime_s: float | None = None
    stopped: bool = False
    key_from: str = ""


class _Told(msgspec.Struct):
    generation: int
    protocol: int
    runs: int
    live_runs: int
    leases: int


def start(home: Home = None, as_json: Json = False) -> None:
    """Starts the coordinator, waits until it answers, and gives it the API key; one that runs is fine."""
    places = _places(home)
    started = ensure_running(places, reading_settings(home))
    found = msgspec.structs.replace(state_of(places), key_from=hand_over_key(places))
    _print(found, as_json, "started" if started else "was running already")


def stop(home: Home = None, as_json: Json = False) -> None:
    """Stops the coordinator; attached processes go on logging; it is started again when it is needed."""
    places = _places(home)
    launch.leave(places)
    before = listener(places.socket)
    asked = ask(places.socket, StopCoordinator(request=1)) is not None
    if asked and before is not None:
        _await_end(places, before)
    _print(state_of(places), as_json, "stopped" if asked else "was not running")


def status(home: Home = None, as_json: Json = False) -> None:
    """Prints pid, generation, Runs and attached processes; exit code 3 if none runs."""
    found = state_of(_places(home))
    _print(found, as_json, "is running" if found.running else "is not running")
    if not found.running:
        raise SystemExit(NOT_RUNNING)


def logs(
    lines: Annotated[int, Option("-n", "--lines", least=0, help="So many of the last lines.")] = 50,
    follow: Annotated[bool, Option("-f", "--follow", help="Goes on with new ones.")] = False,
    home: Home = None,
) -> None:
    """Prints the end of the coordinator's log, one JSON object per line."""
    from collections import deque

    log = _places(home).log
    if not log.exists():
        note(f"no log yet: {log}")
        if not follow:
            return
    read = 0
    if log.exists():
        with log.open("rb") as file:
            for line in deque(file, maxlen=lines):
                _write(line)
            read = file.tell()
    if follow:
        _follow(log, read)


def state_of(places: Places) -> State:
    """State of the coordinator of these places."""
    listening = listener(places.socket)
    body = ask(places.socket, AskStatus(request=1)) if listening is not None else None
    bare = State(
        running=False,
        runtime=str(places.runtime),
        socket=str(places.socket),
        log=str(places.log),
        stopped=launch.is_left(places),
    )
    if body is None or listening is None:
        return bare
    told = msgspec.json.decode(body, type=_Told)
    return msgspec.structs.replace(
        bare,
        running=True,
        pid=listening.pid,
        generation=told.generation,
        protocol=told.protocol,
        runs=told.runs,
        live_runs=told.live_runs,
        leases=told.leases,
        **_times(listening.pid),
    )


def _await_end(places: Places, before: Listener) -> None:
    """Returns when the process is gone; one in another pid namespace, when its socket is."""
    import time

    identity = identity_of(before.pid) if before.pid is not None else None
    deadline = time.monotonic() + STOP_S
    while listener(places.socket) == before or (
        before.pid is not None and identity is not None and identity_of(before.pid) == identity
    ):
        if time.monotonic() > deadline:
            who = f" (pid {before.pid})" if before.pid else ""
            raise WaitTimeoutError(
                f"the coordinator{who} has not ended within {STOP_S:g} s; it finishes requests in flight, "
                "see `pluto-dist coordinator logs`"
            )
        time.sleep(POLL_S)


def _times(pid: int | None) -> dict[str, float]:
    import time

    import psutil  # type: ignore[import-untyped, unused-ignore]

    if pid is None:
        return {}
    try:
        started = psutil.Process(pid).create_time()
    except psutil.Error:  # ended in this instant, or in another pid namespace
        return {}
    return {"started_at": round(started * 1000), "uptime_s": max(0.0, time.time() - started)}


def _places(home: Path | None) -> Places:
    return find_places(reading_settings(home).home)


def _print(found: State, as_json: bool, what: str) -> None:
    if as_json:
        print_json(found)
        return
    echo(f"the coordinator {what}")
    if found.running:
        echo(f"  pid         {found.pid or 'in another pid namespace'}, up {span(found.uptime_s)}")
        echo(f"  generation  {found.generation}, protocol {found.protocol}")
        echo(f"  runs        {found.runs}, {found.live_runs} of them live")
        echo(f"  leases      {found.leases} attached")
        if found.key_from:
            echo(f"  API key     handed over, from {found.key_from}")
    elif found.stopped:
        echo("  stopped on purpose; the next init(), finish() or `coordinator start` starts it again")
    echo(f"  socket      {found.socket}")
    echo(f"  log         {found.log}")


def _follow(log: Path, read: int) -> None:
    """Prints what is added; a log that was replaced is read from its start."""
    import time

    while True:
        size = log.stat().st_size if log.exists() else 0
        if size < read:
            read = 0
        if size > read:
            with log.open("rb") as file:
                file.seek(read)
                _write(file.read(size - read))
            read = size
        time.sleep(FOLLOW_S)


def _write(data: bytes) -> None:
    import sys

    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
