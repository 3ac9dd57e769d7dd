"""Machines as network namespaces on one bridge, and a way to services on the test's own loopback.

A link can be cut and restored. The tracking server of the tests listens on loopback: in a namespace a relay
listens at the same address and goes through a Unix socket, which belongs to no namespace; so a cut link
takes away the other machines and not the server.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable
from pathlib import Path

import pytest

_made = itertools.count()
NSENTER = shutil.which("nsenter")


class Network:
    """A bridge and some machines; needs root and iproute2, and skips the test without.

    Args:
        size: how many machines.
    """

    def __init__(self, size: int = 2) -> None:
        if os.geteuid() != 0 or shutil.which("ip") is None or NSENTER is None:
            pytest.skip("network namespaces need root, iproute2 and nsenter")
        number = os.getpid() % 250
        mark = f"{os.getpid() % 1_000_000:x}{next(_made):x}"  # a namespace goes some time after its removal
        self._bridge = f"pdb{mark}"
        self._folder = Path(tempfile.mkdtemp(prefix="pdnet", dir="/tmp"))
        self._names = [f"pd{mark}n{index}" for index in range(size)]
        self._links = [f"pd{mark}v{index}" for index in range(size)]
        self._relays: list[subprocess.Popen[bytes]] = []
        self.host = f"10.77.{number}.254"
        self.addresses = [f"10.77.{number}.{index + 1}" for index in range(size)]
        try:
            self._build()
        except subprocess.CalledProcessError as error:
            self.close()
            pytest.skip(f"no network namespaces here: {error.stderr.decode(errors='replace').strip()}")

    def inside(self, machine: int) -> list[str]:
        """What stands before a command that is to run on a machine."""
        assert NSENTER is not None
        return [NSENTER, f"--net=/run/netns/{self._names[machine]}"]

    def cut(self, machine: int) -> None:
        """The machine reaches no other one, nor the host."""
        self._ip("link", "set", self._links[machine], "down")

    def restore(self, machine: int) -> None:
        """It does again."""
        self._ip("link", "set", self._links[machine], "up")

    def offer(self, ports: Iterable[int]) -> None:
        """What listens on the test's loopback can be reached under the same address on every machine."""
        for port in ports:
            path = str(self._folder / str(port))
            self._relay([], "out", path, str(port))
            for machine in range(len(self._names)):
                self._relay(self.inside(machine), "in", path, str(port))

    def kill(self, machine: int) -> None:
        """SIGKILL of everything on a machine, apart from the relays."""
        keep = {relay.pid for relay in self._relays}
        for pid in self._pids(machine):
            if pid not in keep:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def close(self) -> None:
        """Ends what is left on the machines, and removes them."""
        for machine in range(len(self._names)):
            for pid in self._pids(machine):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        for relay in self._relays:
            relay.kill()
            relay.wait()
        for link in self._links:
            subprocess.run(["ip", "link", "del", link], capture_output=True, check=False)
        for name in self._names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
        subprocess.run(["ip", "link", "del", self._bridge], capture_output=True, check=False)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _build(self) -> None:
        self._ip("link", "add", self._bridge, "type", "bridge")
        self._ip("addr", "add", f"{self.host}/24", "dev", self._bridge)
        self._ip("link", "set", self._bridge, "up")
        for name, link, address in zip(self._names, self._links, self.addresses, strict=True):
            self._ip("netns", "add", name)
            self._ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", name)
            self._ip("link", "set", link, "master", self._bridge, "up")
            self._ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
            self._ip("-n", name, "link", "set", "eth0", "up")
            self._ip("-n", name, "link", "set", "lo", "up")

    def _relay(self, before: list[str], direction: str, path: str, port: str) -> None:
        command = [*before, sys.executable, "-m", "tests.cluster.network", direction, path, port]
        relay = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2])
        assert relay.stdout is not None
        relay.stdout.readline()  # it listens
        relay.stdout.close()
        self._relays.append(relay)

    def _pids(self, machine: int) -> list[int]:
        done = subprocess.run(
            ["ip", "netns", "pids", self._names[machine]], capture_output=True, text=True, check=False
        )
        return [int(pid) for pid in done.stdout.split()]

    def _ip(self, *arguments: str) -> None:
        subprocess.run(["ip", *arguments], capture_output=True, check=True)


def relay(direction: str, path: str, port: int) -> None:
    """`in`: from a port to a Unix socket; `out`: from a Unix socket to a port."""
    inward = direction == "in"
    with socket.socket(socket.AF_INET if inward else socket.AF_UNIX) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port) if inward else path)
        listener.listen(128)
        print("listens", flush=True)
        while True:
            near, _ = listener.accept()
            far = socket.socket(socket.AF_UNIX if inward else socket.AF_INET)
            try:
                far.connect(path if inward else ("127.0.0.1", port))
            except OSError:
                near.close()
                far.close()
                continue
            for source, target in ((near, far), (far, near)):
                threading.Thread(target=_pump, args=(source, target), daemon=True).start()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


if __name__ == "__main__":
    relay(sys.argv[1], sys.argv[2], int(sys.argv[3]))
