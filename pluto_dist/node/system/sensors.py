"""What can be measured on this node. Names are the official client's where it has them, without its `sys/`.

    cpu.percentage.<n>           percent of core n since the sample before
    memory.active, memory.used   bytes
    memory.percentage            percent that is not available
    network.bytes_sent, …_recv   bytes since boot, all interfaces; with `.rate` bytes per second
    ib.<device>.<port>.…         rcv_bytes, xmit_bytes, rcv_packets, xmit_packets of a port; with `.rate`
    disk.used                    bytes of the filesystem that holds the store
    disk.read_bytes.rate, disk.write_bytes.rate   bytes per second, all disks
    gpu.<n>.<model>.…            see `gpus`

Runs of 0.1.0 have `cpu.pct`, `mem` and `net` for the first three; what was stored keeps its names.

A sensor that fails is left out of the sample and reported once; it is tried again with the next one.
"""

from __future__ import annotations

import contextlib
import importlib
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pluto_dist.node.log import say
from pluto_dist.node.system.gpus import Gpus

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
        """What all sensors say, and rates of what only counts.

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
    """What psutil has everywhere, and the cards if there are any."""
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
    """The module that speaks with NVIDIA's driver; None without the `gpu` extra."""
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
    """Used bytes of the filesystem that holds the folder; nothing if that cannot be said."""
    import psutil

    try:
        return {"disk.used": psutil.disk_usage(folder).used}
    except OSError:
        return {}


def _named(kind: str, counters: Any, *fields: str) -> dict[str, float]:
    return {f"{kind}.{field}": getattr(counters, field) for field in fields}
