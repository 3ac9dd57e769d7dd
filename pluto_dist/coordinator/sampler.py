"""System metrics of this node: its sensors, and the streams into which they are written.

The core decides when and for which Runs (`core.machine.node_streams`); a worker thread of the coordinator
measures and writes. psutil is imported with the first sample, so a node where nothing is sampled never loads
it. Names are the official client's where it has them, without its `sys/`:

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
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from pluto_dist.coordinator.log import say
from pluto_dist.core.values.effects import NodeFeed
from pluto_dist.spool.batches import next_step
from pluto_dist.spool.space import Space
from pluto_dist.spool.writer import Limits, StreamWriter


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
