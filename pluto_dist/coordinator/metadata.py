"""Facts about machine and code for a Run's page on a server, kept in the store until the Run is made there.

A server takes them only when it makes the Run. For one that is made later, by another coordinator or by
`sync`, the store has them. A local Run does not wait for them: it is open before they are found.
"""

from __future__ import annotations

import threading
from pathlib import Path

import msgspec

from pluto_dist.backend.local.store import Store
from pluto_dist.coordinator.describe import Describer
from pluto_dist.coordinator.log import say
from pluto_dist.core.values.backend import OpenRequest, OpenResult, RunOpened, Unavailable
from pluto_dist.core.values.effects import OpenRun


class Metadata:
    """Finds the facts once for each Run; several threads share it.

    Args:
        describer: of this machine.
    """

    def __init__(self, describer: Describer | None = None) -> None:
        self._describer = describer or Describer()
        self._known: dict[str, bytes] = {}  # by Run, until the server has it

    def request(self, effect: OpenRun) -> OpenRequest:
        """The request for the backend; for a server with the facts in it."""
        if effect.origin is None or effect.request.target.mode == "local":
            return effect.request
        known = self._known.get(effect.run)
        if known is None:
            known = self._known[effect.run] = self._describer.describe(effect.origin)
        return msgspec.structs.replace(effect.request, system_metadata=known)

    def answered(self, effect: OpenRun, result: OpenResult) -> None:
        """Takes the backend's answer: keeps the facts for later, or drops what the server has."""
        if effect.origin is None:
            return
        if effect.request.target.mode == "local":
            if isinstance(result, RunOpened):
                threading.Thread(target=self._keep_of_local, args=(effect,), daemon=True).start()
        elif isinstance(result, Unavailable):
            _keep(effect, self._known[effect.run])
        elif self._known.pop(effect.run, None) is not None:
            _drop(effect)

    def _keep_of_local(self, effect: OpenRun) -> None:
        if effect.origin is not None:
            _keep(effect, self._describer.describe(effect.origin))


def _keep(effect: OpenRun, body: bytes) -> None:
    try:
        Store(Path(effect.request.target.store)).write_metadata(effect.run, body)
    except OSError as error:  # a page without the machine is no reason to hold up the Run
        say("metadata_not_kept", run=effect.run, error=str(error))


def _drop(effect: OpenRun) -> None:
    try:
        Store(Path(effect.request.target.store)).drop_metadata(effect.run)
    except OSError as error:
        say("metadata_not_dropped", run=effect.run, error=str(error))
