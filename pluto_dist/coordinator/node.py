"""This node as the page of a Run shows it: machine and code once, its measurements again and again.

The description is in the official client's form. It is sent once, when the Run is created, so the creation
waits for it, and it is bounded: a fact that is not known within `PATIENCE_S` is left out, and so is one that
cannot be found at all. The server takes it at that moment only. For a Run that is made later, by another
coordinator or by `sync`, the store has it. A local Run does not wait for it: it is open before the facts are
found.

Of measurements the core decides when and for which Runs (`core.machine.node_streams`); a worker thread of the
coordinator measures and writes. psutil is imported with the first sample, so a node where nothing is sampled
never loads it. Names are the official client's where it has them, without its `sys/`:

    cpu.percentage.<n>           percent of core n since the sample before
    memory.active, memory.used   bytes
    memory.percentage            percent that is not available
    network.bytes_sent, …_recv   bytes since boot, all interfaces; with `.rate` bytes per second
    ib.<device>.<port>.…         rcv_bytes, xmit_bytes, rcv_packets, xmit_packets of a port; with `.rate`
    disk.used                    bytes of the filesystem that holds the store
    disk.read_bytes.rate, disk.write_bytes.rate   bytes per second, all disks
    gpu.<n>.<model>.…            NVIDIA cards by NVML; all, whatever CUDA_VISIBLE_DEVICES a trainer has

Runs of 0.1.0 have `cpu.pct`, `mem` and `net` for the first three; what was stored keeps its names. A sensor
that fails is left out of the sample and reported once; it is tried again with the next one.

One sample is written for each Run of the node, into a metrics stream like any other (G3, G6). The folder of
such a stream lies among the leases, but no process holds it: there is no lifecycle stream and no lock. Steps
go on behind the last record on the disk or the last that was delivered, whichever is higher; on the disk
there may also be a former stream of the same Run that the server has not taken yet.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import os
import re
import subprocess
import threading
import time
from collections.abc import Callable, Hashable, Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import msgspec

from pluto_dist.backend.local.store import Store
from pluto_dist.coordinator.log import say
from pluto_dist.core.values.backend import OpenRequest, OpenResult, RunOpened, Unavailable
from pluto_dist.core.values.effects import NodeFeed, OpenRun
from pluto_dist.core.values.lifecycle import Origin
from pluto_dist.spool.batches import next_step
from pluto_dist.spool.space import Space
from pluto_dist.spool.writer import Limits, StreamWriter

PATIENCE_S = 1.5
SPARE_S = 0.2  # of that, for parts that take several steps
LONGEST_DIFF = 64 << 10  # characters
MASK = "***"

_ASSIGNED = re.compile(
    r"(?i)([\w-]*(?:api[_-]?key|token|secret|passw(?:or)?d|credential)[\w-]*[\"']?\s*[:=]\s*)([\"']?)[^\s\"',;]+"
)
_PACKAGE = re.compile(r"(.+?)-(\d[^-]*)(?:-py[\d.]+)?\.(?:dist-info|egg-info)")

_DIFF = ("diff", "--no-ext-diff", "--no-textconv", "--submodule=diff")

Part = Callable[[], Mapping[str, Any]]


class Asked:
    """A part that was asked, in a thread of its own."""

    def __init__(self, name: Hashable, part: Part) -> None:
        self._name = name
        self._part = part
        self._found: Mapping[str, Any] = {}
        self.thread = threading.Thread(target=self._run, daemon=True)

    def answer(self, patience_s: float) -> Mapping[str, Any]:
        """What it found, nothing if that takes longer."""
        self.thread.join(patience_s)
        return self._found

    def _run(self) -> None:
        try:
            self._found = self._part()
        except Exception as error:  # noqa: BLE001 # drivers and psutil raise what they like; the others go on
            say("not_described", part=str(self._name), error=f"{type(error).__name__}: {error}")


class Describer:
    """Finds each part in a thread of its own: a driver or a disk may hang, and is not asked again meanwhile.

    Args:
        parts: makes the parts, from an origin and the instant by which they should answer; those of this
            machine by default.
    """

    def __init__(self, parts: Callable[[Origin, float], Mapping[Hashable, Part]] | None = None) -> None:
        self._parts = parts or parts_of_this_machine
        self._lock = threading.Lock()
        self._asked: dict[Hashable, Asked] = {}

    def describe(self, origin: Origin, patience_s: float = PATIENCE_S) -> bytes:
        """A JSON object: the facts in the process's claim, with those that are found here."""
        until = time.monotonic() + patience_s
        asked = [self._ask(name, part) for name, part in self._parts(origin, until - SPARE_S).items()]
        found: dict[str, Any] = msgspec.json.decode(origin.known, type=dict[str, Any])
        for each in asked:
            for name, value in each.answer(max(0.0, until - time.monotonic())).items():
                known = found.get(name)
                found[name] = known | value if isinstance(known, dict) and isinstance(value, dict) else value
        return msgspec.json.encode(found)

    def _ask(self, name: Hashable, part: Part) -> Asked:
        """Asks a part, or waits with another Run that has asked the same just now."""
        with self._lock:
            self._asked = {key: each for key, each in self._asked.items() if each.thread.is_alive()}
            before = self._asked.get(name)
            if before is not None:
                return before
            asked = self._asked[name] = Asked(name, part)
            asked.thread.start()
            return asked


def parts_of_this_machine(origin: Origin, until: float) -> dict[Hashable, Part]:
    """Functions that find each part, by its name and by what it depends on."""
    return {
        "machine": _machine,
        ("requirements", origin.search_path): lambda: {"requirements": packages(origin.search_path)},
        "infiniband": _infiniband,
        ("git", origin.folder): lambda: _nonempty("git", code_of(origin.folder, until)),
        "gpu": _gpus,
        "nvcc": lambda: _nvcc(until),
    }


def packages(search_path: Iterable[str]) -> list[str]:
    """Installed packages with their versions, by the names of their folders; of two the first counts."""
    found: dict[str, str] = {}
    for folder in search_path:
        try:
            names = sorted(path.name for path in Path(folder).iterdir())
        except OSError:  # a zip file, or a folder that is gone
            continue
        for match in filter(None, map(_PACKAGE.fullmatch, names)):
            found.setdefault(match[1].replace("_", "-"), match[2])
    return [f"{name}=={version}" for name, version in sorted(found.items(), key=lambda each: each[0].lower())]


def code_of(folder: str, until: float) -> dict[str, Any]:
    """Commit, branch and changes of the repository that holds the folder; nothing if there is none.

    Args:
        folder: of the script.
        until: monotonic seconds; facts that git has not given by then are left out.
    """

    def git(*arguments: str) -> str | None:
        return _git(folder, arguments, until - time.monotonic())

    root, commit = git("rev-parse", "--show-toplevel"), git("rev-parse", "HEAD")
    if not root or not commit:
        return {}
    found: dict[str, Any] = {
        "root": root,
        "commit": commit,
        "branch": git("symbolic-ref", "--short", "-q", "HEAD") or "",
        "name": git("config", "user.name"),
        "email": git("config", "user.email"),
        "url": without_password(git("config", "remote.origin.url") or "") or None,
    }
    changed = git("status", "--porcelain", "--untracked-files=no")
    if changed is not None:
        found["dirty"] = bool(changed)
        compared = {"head": "HEAD"} if changed else {}
        said = {name: git(*_DIFF, against) for name, against in ({"remote": "@{u}"} | compared).items()}
        found["diff"] = {name: _shown_diff(text) for name, text in said.items() if text is not None}
    return {name: value for name, value in found.items() if value is not None}


def without_password(url: str) -> str:
    """The address of a remote without a user or password before its host."""
    parts = urlsplit(url)
    if not parts.scheme or "@" not in parts.netloc:
        return url
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def masked(text: str) -> str:
    """The text without values that are assigned to names which look secret."""
    return _ASSIGNED.sub(rf"\1\2{MASK}", text)


def _git(folder: str, arguments: tuple[str, ...], patience_s: float) -> str | None:
    """Output of a git command; hooks and programs that the repository names are not run."""
    command = ["git", "--no-pager", "-c", "core.fsmonitor=false", "-C", folder, *arguments]
    return _said(command, patience_s)


def _said(command: list[str], patience_s: float) -> str | None:
    """Output of a program; None if there is no such program, it fails, or takes too long."""
    if patience_s <= 0:
        return None
    env = {**os.environ, "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
    try:
        done = subprocess.run(
            command, capture_output=True, stdin=subprocess.DEVNULL, timeout=patience_s, env=env, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode(errors="replace").rstrip("\n") if done.returncode == 0 else None


def _shown_diff(text: str) -> str:
    left_out = len(text) - LONGEST_DIFF
    return masked(text[:LONGEST_DIFF]) + (f"\n… {left_out} more characters" if left_out > 0 else "")


def _machine() -> dict[str, Any]:
    import psutil  # type: ignore[import-untyped, unused-ignore]

    frequencies = psutil.cpu_freq(percpu=True) if hasattr(psutil, "cpu_freq") else []
    return {
        "cpu": {
            "physical": psutil.cpu_count(logical=False),
            "virtual": psutil.cpu_count(logical=True),
            "freq": {
                "min": min((each.min for each in frequencies), default=0),
                "max": max((each.max for each in frequencies), default=0),
            },
        },
        "memory": {"virt": psutil.virtual_memory().total, "swap": psutil.swap_memory().total},
        "boot_time": psutil.boot_time(),
    }


def _gpus() -> dict[str, Any]:
    nvml = nvml_of_this_node()
    return {} if nvml is None else described(nvml)


def _nvcc(until: float) -> dict[str, Any]:
    said = _said(["nvcc", "--version"], until - time.monotonic())
    release = re.search(r"release\s+([\d.]+)", said or "")
    return {"cuda": {"cuda_nvcc": release[1]}} if release else {}


def _infiniband() -> dict[str, Any]:
    found = [
        {
            "name": device.name,
            **_files(device, "board_id", "fw_ver", "hca_type"),
            "ports": [
                {"port": port.name, **_files(port, "link_layer", "state", "rate", "phys_state")}
                for port in sorted((device / "ports").glob("*"))
            ],
        }
        for device in sorted(INFINIBAND.glob("*"))
    ]
    return _nonempty("infiniband", {"devices": found} if found else {})


def _files(folder: Path, *names: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in names:
        try:
            found[name] = (folder / name).read_text(errors="replace").strip()
        except OSError:
            continue
    return found


def _nonempty(name: str, value: dict[str, Any]) -> dict[str, Any]:
    return {name: value} if value else {}


class Metadata:
    """Finds the facts once for each Run; several threads share it."""

    def __init__(self) -> None:
        self._describer = Describer()
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


class Gpus:
    """The cards of this node.

    Args:
        nvml: the `pynvml` module.

    Raises:
        Exception: NVML's own error where there is no driver.
    """

    def __init__(self, nvml: Any) -> None:
        self._nvml = nvml
        nvml.nvmlInit()
        self._cards: list[tuple[str, Any]] = []
        for index in range(nvml.nvmlDeviceGetCount()):
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            self._cards.append((f"gpu.{index}.{_plain(nvml.nvmlDeviceGetName(handle))}", handle))

    def read(self) -> dict[str, float]:
        """Percent, bytes, milliwatts and degrees of each card."""
        found: dict[str, float] = {}
        for name, handle in self._cards:
            rates = self._nvml.nvmlDeviceGetUtilizationRates(handle)
            found[f"{name}.utilization"] = rates.gpu
            found[f"{name}.memory.utilization"] = rates.memory
            found[f"{name}.memory.used"] = self._nvml.nvmlDeviceGetMemoryInfo(handle).used
            found[f"{name}.power"] = self._nvml.nvmlDeviceGetPowerUsage(handle)
            found[f"{name}.temperature"] = self._nvml.nvmlDeviceGetTemperature(
                handle, self._nvml.NVML_TEMPERATURE_GPU
            )
        return found


def described(nvml: Any) -> dict[str, Any]:
    """The cards and their driver, as the official client describes them.

    Args:
        nvml: the `pynvml` module.

    Raises:
        Exception: NVML's own error where there is no driver.
    """
    nvml.nvmlInit()
    cards = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
    cuda = nvml.nvmlSystemGetCudaDriverVersion()
    nvidia = {
        "count": len(cards),
        "driver": _text(nvml.nvmlSystemGetDriverVersion()),
        "devices": [_card(nvml, card) for card in cards],
    }
    version = f"{cuda // 1000}.{cuda % 1000 // 10}"
    return {"gpu": {"nvidia": nvidia}, "cuda": {"cuda_driver": version}} if cards else {}


def _card(nvml: Any, card: Any) -> dict[str, Any]:
    running = (
        *nvml.nvmlDeviceGetComputeRunningProcesses(card),
        *nvml.nvmlDeviceGetGraphicsRunningProcesses(card),
    )
    return {
        "name": _text(nvml.nvmlDeviceGetName(card)),
        "memory": {"total": nvml.nvmlDeviceGetMemoryInfo(card).total},
        "temp": nvml.nvmlDeviceGetTemperature(card, nvml.NVML_TEMPERATURE_GPU),
        "pid": [process.pid for process in running],
    }


def _text(said: str | bytes) -> str:
    return said.decode(errors="replace") if isinstance(said, bytes) else said


def _plain(name: str | bytes) -> str:
    return re.sub(r"[ -]", "_", _text(name).lower())


Sensor = Callable[[], Mapping[str, float]]


class Rates:
    """Counters per second, from one sample to the next."""

    def __init__(self) -> None:
        self._before: dict[str, float] = {}
        self._at: float | None = None

    def of(self, counters: Mapping[str, float], now: float) -> dict[str, float]:
        """`<name>.rate` of each counter that was there before; one that was set back counts from 0."""
        before, self._before = self._before, dict(counters)
        at, self._at = self._at, now
        if at is None or now <= at:
            return {}
        return {
            f"{name}.rate": (value - before[name] if value >= before[name] else value) / (now - at)
            for name, value in counters.items()
            if name in before
        }


class Sensors:
    """All sensors of this node. Not for several threads at once.

    Args:
        sensors: by a name for the log; those of this machine by default.
    """

    def __init__(self, sensors: Mapping[str, Sensor] | None = None) -> None:
        self._sensors = dict(sensors) if sensors is not None else {}
        self._found = sensors is not None
        self._failed: set[str] = set()
        self._rates = Rates()

    def sample(self, now: float) -> dict[str, float]:
        """Values of all sensors, and rates of those that only count.

        Args:
            now: monotonic seconds.
        """
        if not self._found:
            self._sensors, self._found = sensors_of_this_node(), True
        values: dict[str, float] = {}
        counters: dict[str, float] = {}
        for name, sensor in self._sensors.items():
            found = self._read(name, sensor)
            values.update(found)
            if name in _COUNTERS:
                counters.update(found)
        values.update(self._rates.of(counters, now))
        return {
            name: value for name, value in values.items() if name not in _ONLY_RATES and math.isfinite(value)
        }

    def _read(self, name: str, sensor: Sensor) -> Mapping[str, float]:
        try:
            return sensor()
        except Exception as error:  # noqa: BLE001 # drivers and psutil raise what they like; others must go on
            if name not in self._failed:
                self._failed.add(name)
                say("sensor_failed", sensor=name, error=f"{type(error).__name__}: {error}")
            return {}


INFINIBAND = Path("/sys/class/infiniband")
_PORT_COUNTERS = {  # name, and how many bytes or packets one of its units is
    "port_rcv_data": ("rcv_bytes", 4),
    "port_xmit_data": ("xmit_bytes", 4),
    "port_rcv_packets": ("rcv_packets", 1),
    "port_xmit_packets": ("xmit_packets", 1),
}
_COUNTERS = frozenset({"net", "ib", "disk"})
_ONLY_RATES = frozenset({"disk.read_bytes", "disk.write_bytes"})


def sensors_of_this_node() -> dict[str, Sensor]:
    """Sensors by name: those that psutil has everywhere, InfiniBand, and the cards if there are any."""
    import psutil  # type: ignore[import-untyped, unused-ignore]

    psutil.cpu_percent(percpu=True)  # the first call only starts the measurement

    def cpu() -> dict[str, float]:
        return {f"cpu.percentage.{n}": value for n, value in enumerate(psutil.cpu_percent(percpu=True))}

    def memory() -> dict[str, float]:
        found = psutil.virtual_memory()
        active = {"memory.active": found.active} if hasattr(found, "active") else {}
        return {**active, "memory.used": found.used, "memory.percentage": found.percent}

    def net() -> dict[str, float]:
        found = psutil.net_io_counters()
        return {} if found is None else _named("network", found, "bytes_sent", "bytes_recv")

    def disk() -> dict[str, float]:
        found = psutil.disk_io_counters()  # None in containers without disks of their own
        return {} if found is None else _named("disk", found, "read_bytes", "write_bytes")

    sensors: dict[str, Sensor] = {"cpu": cpu, "memory": memory, "net": net, "disk": disk}
    if INFINIBAND.is_dir():
        sensors["ib"] = infiniband
    cards = find_gpus()
    return sensors if cards is None else {**sensors, "gpu": cards.read}


def infiniband(devices: Path = INFINIBAND) -> dict[str, float]:
    """Counters of all ports; one that cannot be read is left out."""
    found: dict[str, float] = {}
    for port in sorted(devices.glob("*/ports/*")):
        for counter, (name, unit) in _PORT_COUNTERS.items():
            with contextlib.suppress(OSError, ValueError):
                value = int((port / "counters" / counter).read_text())
                found[f"ib.{port.parent.parent.name}.{port.name}.{name}"] = value * unit
    return found


def nvml_of_this_node() -> Any:
    """The module for NVIDIA's driver; None without the `gpu` extra."""
    try:
        return importlib.import_module("pynvml")
    except ImportError:
        return None


def find_gpus() -> Gpus | None:
    """The NVIDIA cards; None without the `gpu` extra or without a driver."""
    nvml = nvml_of_this_node()
    if nvml is None:
        return None
    try:
        return Gpus(nvml)
    except Exception as error:  # noqa: BLE001 # NVML's errors have no base class of their own to name here
        say("no_gpus", error=f"{type(error).__name__}: {error}")
        return None


def disk_used(folder: str) -> dict[str, float]:
    """Used bytes of the filesystem that holds the folder; nothing if that cannot be found."""
    import psutil

    try:
        return {"disk.used": psutil.disk_usage(folder).used}
    except OSError:
        return {}


def _named(kind: str, counters: Any, *fields: str) -> dict[str, float]:
    return {f"{kind}.{field}": getattr(counters, field) for field in fields}


FRESH_S = 0.5  # Runs that are due within this time share one sample
SEGMENT_BYTES = 1 << 20

_to_json = msgspec.json.Encoder().encode


class _Stream:
    """The open stream of one Run."""

    def __init__(self, feed: NodeFeed) -> None:
        folder = Path(feed.folder)
        folder.mkdir(mode=0o700, exist_ok=True)
        space = Space(str(folder.parent.parent))
        self.writer = StreamWriter(feed.folder, "metrics", Limits(segment_bytes=SEGMENT_BYTES), space=space)
        known = map(next_step, (feed.folder, *feed.earlier))
        self.step = max(feed.first_step, *known)


class NodeRecorder:
    """Samples and writes; may be called by several threads. `end` never waits for a sensor.

    Args:
        sensors: of this node.
        monotonic: seconds.
        wall_ms: epoch milliseconds.
    """

    def __init__(
        self,
        sensors: Sensors | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._sensors = sensors or Sensors()
        self._monotonic = monotonic
        self._wall_ms = wall_ms
        self._streams: dict[str, _Stream] = {}
        self._ended: set[str] = set()
        self._sampling = threading.Lock()
        self._turn = threading.Lock()
        self._sampled_at = float("-inf")
        self._values: dict[str, float] = {}

    def record(self, feeds: Iterable[NodeFeed]) -> None:
        """Writes one record for each feed; none while a sample is being taken, because a sensor may hang.

        Raises:
            OSError: a folder cannot be made; the feeds before it were written.
        """
        if not self._sampling.acquire(blocking=False):
            return
        try:
            values = self._sample()
            for feed in feeds:
                self._write(feed, {**values, **disk_used(feed.store)})
        finally:
            self._sampling.release()

    def end(self, lease_id: str) -> None:
        """Ends the stream of a Run: nothing more is written into it."""
        with self._turn:
            self._ended.add(lease_id)
            stream = self._streams.pop(lease_id, None)
            if stream is not None:
                stream.writer.close()

    def _sample(self) -> dict[str, float]:
        now = self._monotonic()
        if now >= self._sampled_at + FRESH_S:
            self._values, self._sampled_at = self._sensors.sample(now), now
        return self._values

    def _write(self, feed: NodeFeed, values: dict[str, float]) -> None:
        prefix = f"sys/{feed.host}/" if feed.host else "sys/"
        data = {prefix + name: value for name, value in values.items()}
        with self._turn:
            if not data or feed.lease_id in self._ended:
                return
            stream = self._streams.get(feed.lease_id)
            if stream is None:
                stream = self._streams[feed.lease_id] = _Stream(feed)
            line = {"time": self._wall_ms(), "step": stream.step, "data": data}
            stream.step += stream.writer.append(_to_json(line) + b"\n")
