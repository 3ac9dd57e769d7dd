"""What a handle knows of its Run: as the coordinator said it last, or asked again where others change it."""

from __future__ import annotations

import json
from typing import Any

from pluto_dist.client.held import HeldLease
from pluto_dist.client.official import Hints, RunSettings, settings_of_run
from pluto_dist.client.stops import STOPS
from pluto_dist.core.ids import Role
from pluto_dist.core.messages import AskConfig, AskRun, RunView, View
from pluto_dist.errors import CoordinatorUnavailableError, PlutoDistError, RunEndedError, WaitTimeoutError

GRANT_S = 30.0  # a property that needs the Run waits this long for it
ASK_S = 2.0  # config, tags and status fall back to what is known after this time


class RunFacts(Hints):
    """The properties of a `Run`. They may wait for the grant, for milliseconds; `log()` never does.

    Where no coordinator can be had they say what this process knows by itself: id, project and name that it
    asked for, its own tags and config, RUNNING. `id` and `display_id` are None then, `url` is "".

    After `finish()` or `close()` nobody is told anything any more, so `config`, `tags` and `status` ask for
    themselves, as long as a coordinator is there; later `tags` and `status` are what was known last.
    """

    def __init__(self, held: HeldLease) -> None:
        self._held = held
        self._link = held.link

    @property
    def id(self) -> int | None:
        """Numeric id; None while the server has not answered."""
        return self._run_view().id

    @property
    def display_id(self) -> str | None:
        """For people, e.g. "MMP-42"."""
        return self._run_view().display_id

    @property
    def run_id(self) -> str:
        """The caller's id of the Run, or the generated one."""
        return self._run_view().external_id

    @property
    def name(self) -> str:
        """Its name."""
        return self._run_view().name

    @property
    def project(self) -> str:
        """The project it is in."""
        return self._run_view().project

    @property
    def config(self) -> dict[str, Any]:
        """The merged config as it is now, changes of this process included.

        Raises:
            RunEndedError: this process has ended the Run, and no coordinator is there any more to say it.
            WaitTimeoutError: no coordinator has said it in time, or this is a forked child.
        """
        if self._held.end and self._held.alone is None:
            return self._config_afterwards()
        self._view()  # a rank may still wait for its Run
        if (alone := self._held.alone) is not None:
            return alone.config
        self._link.wait(self._link.settled, ASK_S)
        answer = self._link.ask(lambda n: AskConfig(request=n, lease_id=self.lease_id), ASK_S)
        if answer is None and not self._held.here:
            raise WaitTimeoutError(
                "the config is not known in a forked child; attach() gives a handle that asks"
            )
        if answer is None:
            raise WaitTimeoutError(
                f"no coordinator answered within {ASK_S:g} s; the config is not known here"
            )
        found: dict[str, Any] = json.loads(answer)
        return found

    @property
    def tags(self) -> list[str]:
        """The Run's tags as they are now, changes of this process included."""
        document = self._afterwards()
        if document is not None:
            return list(document["tags"])
        self._view()
        if self._held.alone is None:
            self._link.wait(self._link.settled, ASK_S)
        return list(self._fresh().tags)

    @property
    def status(self) -> str:
        """RUNNING, COMPLETED, FAILED, TERMINATED or CANCELLED."""
        document = self._afterwards()
        if document is not None:
            return str(document["status"])
        return self._fresh().status

    @property
    def url(self) -> str:
        """Address of the Run's page, "" for a local Run."""
        return self._run_view().url

    @property
    def settings(self) -> RunSettings:
        """The settings that hold for this process, and the Run's ids by the official client's names.

        A copy without the API key.
        """
        view = self._run_view()
        return settings_of_run(
            self._held.settings,
            id=view.id,
            display_id=view.display_id,
            run_id=view.external_id,
            name=view.name,
            project=view.project,
            status=view.status,
            url=view.url,
        )

    @property
    def resumed(self) -> bool:
        """Whether the Run existed before."""
        return self._run_view().resumed

    @property
    def fork_run_id(self) -> int | None:
        """Numeric id of the Run that this one continues."""
        return self._run_view().fork_run_id

    @property
    def fork_step(self) -> int | None:
        """The step from which it continues."""
        return self._run_view().fork_step

    @property
    def role(self) -> Role:
        """What this process may do: "owner", "worker" or "side"."""
        return self._view().role

    @property
    def label(self) -> str:
        """What people call this process."""
        return self._view().label

    @property
    def lease_id(self) -> str:
        """Id of this process's lease."""
        return self._held.lease_id

    @property
    def epoch(self) -> int:
        """Fencing number of the ownership under which the lease was granted."""
        return self._view().epoch

    @property
    def ended(self) -> bool:
        """Whether this process has finished or closed the Run."""
        return bool(self._held.end)

    @property
    def next_step(self) -> int:
        """The automatic step that would come next."""
        return self._held.next_step

    @property
    def cancelled(self) -> bool:
        """Whether somebody cancelled the Run on the server."""
        view = self._link.view
        return view is not None and view.run is not None and view.run.cancelled

    @property
    def preempted(self) -> bool:
        """Whether this process was asked to stop (SIGTERM).

        A script that looks at it is not ended by SIGTERM at once: it is expected to save and to leave its
        loop, within `preempt_wait_s`. Ranks see it at different steps: agree on it (an all-reduce) before
        leaving a loop with collectives.
        """
        STOPS.cooperative = True
        return STOPS.asked

    def _view(self) -> View:
        if (alone := self._held.alone) is not None:
            return alone.view
        try:
            granted = self._held.wait_granted(GRANT_S)
        except CoordinatorUnavailableError:
            if (alone := self._held.alone) is None:
                raise
            return alone.view
        if not granted:
            raise WaitTimeoutError(
                f"the Run was not granted within {GRANT_S:g} s; logging works meanwhile. "
                "`pluto-dist doctor` shows whether a coordinator can run here"
            )
        view = self._link.view
        assert view is not None  # noqa: S101 # granted above
        return view

    def _run_view(self) -> RunView:
        run = self._view().run
        assert run is not None  # noqa: S101 # granted leases have one
        return run

    def _fresh(self) -> RunView:
        """The Run as the coordinator sees it now, if it answers; else as it was last seen."""
        if self._held.alone is None:
            self._link.refresh(ASK_S)
        return self._run_view()

    def _afterwards(self) -> dict[str, Any] | None:
        """The Run's document, for who has ended the Run here; None if that is not so or nobody has it."""
        view = self._link.view
        if not self._held.end or view is None or view.run is None:
            return None
        try:
            answer = self._link.ask_alone(AskRun(request=1, run=view.run.key), ASK_S)
        except PlutoDistError:  # the Run is forgotten, or the coordinator is of another version
            return None
        found: dict[str, Any] | None = json.loads(answer) if answer is not None else None
        return found

    def _config_afterwards(self) -> dict[str, Any]:
        document = self._afterwards()
        if document is None:
            view = self._link.view
            named = view.run.external_id if view is not None and view.run is not None else "RUN"
            raise RunEndedError(
                f"the Run was {self._held.end} by this process, and no coordinator is there any more to say "
                f"its config; `pluto-dist show {named} --json` has it"
            )
        found: dict[str, Any] = document["config"]
        return found
