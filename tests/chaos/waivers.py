"""What the server calls a client defect, and the design leaves open; everything else is a finding."""

from __future__ import annotations

import json
import re
from functools import cached_property
from typing import TYPE_CHECKING

from tests.chaos.cast import process_of
from tests.chaos.ledger import writer_of
from tests.pluto_server.defects import Defect

if TYPE_CHECKING:
    from tests.chaos.checks import Checks, Remote

IN_FLIGHT = re.compile(r"\(request (\d+)\) was in flight")
QUIET_S = 1.9
LATE_S = 1.0  # a record that was written so shortly before the end may be sent just after it


class Waivers:
    """Of one play.

    Args:
        checks: what there is to know about it.
    """

    def __init__(self, checks: Checks) -> None:
        self._checks = checks

    @cached_property
    def registered(self) -> set[tuple[int, str]]:
        """Names that the server has taken, by its id of the Run."""
        bodies = [
            json.loads(entry["body"])
            for entry in self._checks.play.served.server.requests()
            if entry["path"].endswith("/logName/add") and entry["status"] == 200 and not entry["fault"]
        ]
        return {(body["runId"], name) for body in bodies for name in body["logName"]}

    def cover(self, defect: Defect) -> bool:
        """Whether it was to be expected; by kind:

        6.3.2: records of sides, of workers and forked children that outlive the end, come after it; so may
            the last ones of the node itself.
        6.3.4: repeats; they are compared with their count above.
        6.3.5: the client of the request that was in flight had given it up, or was killed; a status does not
            wait longer than two seconds for what a side, or the node itself, has on its way.
        6.3.7: a status waits for the registration of names a few tries and not for ever; it must come later.
        """
        remote = next((each for each in self._checks.remotes.values() if each.id == defect.run_id), None)
        match defect.kind:
            case "6.3.2" if remote is not None:
                return all(self._may_be_late(remote, name) for name in defect.names)
            case "6.3.4":
                return True
            case "6.3.5":
                quiet = remote is not None and self._waited_long(remote, defect.at_ms / 1000)
                return quiet or self._given_up(IN_FLIGHT.search(defect.text))
            case "6.3.7":
                return all((defect.run_id, name) in self.registered for name in defect.names)
        return False

    def _waited_long(self, remote: Remote, at: float) -> bool:
        """Whether the Run had ended so long before the report that only the living could still write."""
        ended = [end for end in remote.ends if end <= at]  # it may have been taken up again since
        return bool(ended) and ended[-1] + QUIET_S < at

    def _given_up(self, request: re.Match[str] | None) -> bool:
        """Whether nobody waited for the answer any more."""
        entries = self._checks.play.served.server.requests() if request else []
        return any(
            entry["id"] == int(request[1]) and entry["outcome"] == "unknown"
            for entry in entries
            if request is not None
        )

    def _may_be_late(self, remote: Remote, name: str) -> bool:
        if name.startswith("sys/"):
            return True
        points = remote.metrics.get(name, [])
        writers = {writer_of(int(value)) for _, _, value in points}
        if not writers:  # rows are looked for in the whole Run
            writers = {
                value
                for value, each in self._checks.accounts.items()
                if self._checks.run_of(each) == remote.run
            }
        return any(self._wrote_late(remote, writer) for writer in writers)

    def _wrote_late(self, remote: Remote, writer: int) -> bool:
        account, actor = self._checks.accounts[writer], self._checks.actors.get(process_of(writer))
        side = actor is not None and actor.part.verb == "attach"
        lease = next(
            (
                lease
                for lease in self._checks.documents.get(remote.run, {}).get("leases", ())
                if lease["lease_id"] == (account.lease or self._checks.accounts[process_of(writer)].lease)
            ),
            None,
        )
        late = any(account.last_at > end - LATE_S for end in remote.ends)
        return side or late or (lease is not None and lease["role"] == "side")
