"""Whether a coordinator has to be started now, and by whom."""

from __future__ import annotations

from collections.abc import Mapping

from pluto_dist.errors import PlutoDistError
from pluto_dist.node import stopped
from pluto_dist.node.launch import claim_start, end_start, launch, put_off_start
from pluto_dist.node.places import Places, make_again
from pluto_dist.transport.client import someone_listens


def start_if_absent(places: Places, env: Mapping[str, str], *, idle_exit_s: float, needed: bool) -> None:
    """Starts a coordinator if there is none and nobody else is about to start one.

    Args:
        places: of this node; folders that somebody has deleted are made again.
        env: of the process that wants one.
        idle_exit_s: for the coordinator.
        needed: somebody waits for it, so it is started also after `pluto-dist coordinator stop`.

    Raises:
        PlutoDistError: it cannot be started here; the next one who tries need not wait for this one.
    """
    if stopped.is_left(places) and not needed:
        return
    if someone_listens(places.socket):  # it has much to do; another one would not help
        return
    try:
        make_again(places)
        if claim_start(places):
            stopped.clear(places)
            if not launch(places, env, idle_exit_s=idle_exit_s):
                put_off_start(places)
    except PlutoDistError:
        end_start(places)
        raise
