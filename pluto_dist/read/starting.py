"""Start of a coordinator for a command, which waits until it answers."""

from __future__ import annotations

import os
import time

from pluto_dist.core.values.messages import AskStatus, HandOverKey
from pluto_dist.errors import CoordinatorUnavailableError
from pluto_dist.host import launch
from pluto_dist.host.launch import start_if_absent
from pluto_dist.host.places import Places
from pluto_dist.host.settings import Settings, as_option, load
from pluto_dist.read.ask import ask

START_S = 60.0  # usually 0.4 s; cold disk caches, a machine with much else to do
POLL_S = 0.02
BUSY_S = 20.0  # one that listens and has much else to do answers within this time; a stopped one never


def ensure_running(places: Places, settings: Settings) -> bool:
    """Returns when a coordinator answers; whether it had to be started.

    Raises:
        CoordinatorUnavailableError: none could be started, or it does not answer.
    """
    launch.clear(places)
    if _answers(places):
        return False
    deadline = time.monotonic() + START_S
    while not _answers(places):
        if time.monotonic() > deadline:
            raise CoordinatorUnavailableError(
                f"no coordinator within {START_S:g} s; the end of its log {places.log}:\n{_tail(places)}",
                log=str(places.log),
            )
        start_if_absent(places, os.environ, idle_exit_s=settings.idle_exit_s, needed=True)
        time.sleep(POLL_S)
    return True


def _answers(places: Places) -> bool:
    """Whether there is one that answers."""
    deadline = time.monotonic() + BUSY_S
    while True:
        try:
            return ask(places.socket, AskStatus(request=1)) is not None
        except CoordinatorUnavailableError:
            if time.monotonic() > deadline:
                raise


def hand_over_key(places: Places) -> str:
    """Gives the coordinator the API key of this environment, for Runs whose processes are gone.

    Returns:
        The source of the key, "" without one.

    Raises:
        SettingError: the key cannot be used.
    """
    settings = load(os.environ, {"mode": "auto"}, source=as_option)
    if settings.api_key is None or settings.mode != "pluto":
        return ""
    ask(places.socket, HandOverKey(request=1, key=settings.api_key.reveal()))
    return settings.key_source


def _tail(places: Places) -> str:
    try:
        return places.log.read_text(errors="replace")[-1000:]
    except OSError as error:
        return f"({error})"
