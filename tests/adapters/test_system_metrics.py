"""What is measured of a node, and how it is written for its Runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace

from pluto_dist.coordinator import node as module
from pluto_dist.coordinator.node import (
    Gpus,
    NodeRecorder,
    Rates,
    Sensors,
    disk_used,
    find_gpus,
    infiniband,
    sensors_of_this_node,
)
from pluto_dist.core.values.effects import NodeFeed
from pluto_dist.spool.reader import list_streams, read_cut
from tests.official import OFFICIAL_PYTHON, needs_official_client
from tests.patience import PATIENCE_S


class Nvml:
    """A stand-in for `pynvml` with one card."""

    NVML_TEMPERATURE_GPU = 0

    def nvmlInit(self) -> None:  # noqa: N802 # NVML's name
        """It works."""

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return 1

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetName(self, handle: int) -> bytes:  # noqa: N802
        return b"NVIDIA H100 80GB-HBM3"

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> Any:  # noqa: N802
        return SimpleNamespace(gpu=93, memory=41)

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:  # noqa: N802
        return SimpleNamespace(used=70 << 30)

    def nvmlDeviceGetPowerUsage(self, handle: int) -> int:  # noqa: N802
        return 650_000

    def nvmlDeviceGetTemperature(self, handle: int, kind: int) -> int:  # noqa: N802
        return 61


def feed(tmp_path: Path, number: int = 1, host: str = "", first_step: int = 0) -> NodeFeed:
    (tmp_path / "leases").mkdir(exist_ok=True)
    lease_id = f"{number:024x}"
    return NodeFeed(
        lease_id=lease_id,
        folder=str(tmp_path / "leases" / lease_id),
        first_step=first_step,
        host=host,
        store=str(tmp_path),
    )


def written(feed: NodeFeed) -> list[dict[str, Any]]:
    return [
        json.loads(line)
        for segment in list_streams(feed.folder).get("metrics", {})
        for line in read_cut(feed.folder, "metrics", segment, 0).lines
    ]


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 10.0
        return self.now


def recorder(**values: float) -> NodeRecorder:
    return NodeRecorder(Sensors({"all": lambda: values}), Clock(), lambda: 1700000000123)


def test_steps_go_on_behind_a_former_stream_that_is_not_delivered(tmp_path: Path) -> None:
    """G6, G10: a Run that was taken up again has a new stream; no step gets a second value."""
    node = recorder(load=1.0)
    former, later = feed(tmp_path, 1), feed(tmp_path, 2)
    node.record([former])
    node.record([former])
    node.record([replace(later, earlier=(former.folder,))])
    assert [line["step"] for line in written(former) + written(later)] == [0, 1, 2]


def test_every_value_of_this_machine_is_a_size_a_share_or_a_rate() -> None:
    sensors = Sensors()
    sensors.sample(1.0)
    found = sensors.sample(2.0)
    assert found
    assert all(value >= 0 for value in found.values())


OFFICIAL_NAMES = """
import builtins, json, os, sys, types
import pluto
from pluto.api import make_compat_monitor_v1

class Card:
    known = {"Name": "NVIDIA H100 80GB-HBM3", "Index": 0, "PowerUsage": 1}
    def __getattr__(self, name):
        rates = types.SimpleNamespace(gpu=1, memory=1, used=1)
        return lambda handle: self.known.get(name.removeprefix("nvmlDeviceGet"), rates)

def moved(function):
    def called(path, *more, **named):
        path = path.replace("/sys/class/infiniband", sys.argv[1]) if isinstance(path, str) else path
        return function(path, *more, **named)
    return called

sys.modules["pynvml"] = Card()
system = pluto.System(pluto.Settings())
system.gpu = {"nvidia": {"handles": [0]}}
os.makedirs(system.settings.get_dir(), exist_ok=True)
for owner, name in ((os.path, "exists"), (os.path, "isdir"), (os, "listdir"), (builtins, "open")):
    setattr(owner, name, moved(getattr(owner, name)))
system.monitor()
print(json.dumps(sorted(make_compat_monitor_v1(system.monitor()))))
"""
OURS_ALONE = {"memory.percentage", "disk.read_bytes.rate", "disk.write_bytes.rate"}


def a_port(devices: Path, **counters: int) -> None:
    """An InfiniBand port as the kernel shows it."""
    folder = devices / "mlx5_0" / "ports" / "1" / "counters"
    folder.mkdir(parents=True)
    for name, value in counters.items():
        (folder / f"port_{name}").write_text(f"{value}\n")


@needs_official_client
def test_names_are_those_that_the_installed_official_client_sends(tmp_path: Path) -> None:
    """Charts and dashboards that were made for it go on; what is ours alone is listed."""
    devices = tmp_path / "ib"
    a_port(devices, rcv_data=2, xmit_data=3, rcv_packets=4, xmit_packets=5)
    probe = [str(OFFICIAL_PYTHON), "-c", OFFICIAL_NAMES, str(devices)]
    env = {"HOME": str(tmp_path), "PATH": os.environ["PATH"], "PLUTO_DISABLE_TELEMETRY": "1"}
    done = subprocess.run(probe, capture_output=True, text=True, check=True, cwd=tmp_path, env=env)
    theirs = set(json.loads(done.stdout.splitlines()[-1]))
    sensors = Sensors({**sensors_of_this_node(), "ib": lambda: infiniband(devices), "gpu": Gpus(Nvml()).read})
    sensors.sample(1.0)
    ours = {f"sys/{name}" for name in (*sensors.sample(2.0), *disk_used(str(tmp_path)))}
    alone = {name for name in ours - theirs if not name.endswith(".temperature")}
    assert theirs - ours == set()
    assert alone <= {f"sys/{name}" for name in OURS_ALONE}


def test_a_port_counts_bytes_and_packets(tmp_path: Path) -> None:
    """The kernel counts data in words of four bytes; what cannot be read is left out."""
    a_port(tmp_path, rcv_data=2, xmit_data=3, rcv_packets=4)
    assert infiniband(tmp_path) == {
        "ib.mlx5_0.1.rcv_bytes": 8,
        "ib.mlx5_0.1.xmit_bytes": 12,
        "ib.mlx5_0.1.rcv_packets": 4,
    }


def test_cards_are_named_by_number_and_model() -> None:
    assert Gpus(Nvml()).read() == {
        "gpu.0.nvidia_h100_80gb_hbm3.utilization": 93,
        "gpu.0.nvidia_h100_80gb_hbm3.memory.utilization": 41,
        "gpu.0.nvidia_h100_80gb_hbm3.memory.used": 70 << 30,
        "gpu.0.nvidia_h100_80gb_hbm3.power": 650_000,
        "gpu.0.nvidia_h100_80gb_hbm3.temperature": 61,
    }


def test_a_node_without_cards_or_driver_has_its_other_sensors(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert find_gpus() is None
    assert capsys.readouterr().err == ""
    broken = SimpleNamespace(nvmlInit=lambda: 1 / 0)
    monkeypatch.setitem(sys.modules, "pynvml", broken)
    assert find_gpus() is None
    assert json.loads(capsys.readouterr().err)["event"] == "no_gpus"
    assert "gpu" not in sensors_of_this_node()


def test_cards_are_sensors_where_there_are_some(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", Nvml())
    assert "gpu.0.nvidia_h100_80gb_hbm3.power" in Sensors().sample(1.0)


def test_rates_are_per_second_and_survive_a_counter_that_was_set_back() -> None:
    rates = Rates()
    assert rates.of({"n": 100.0}, 10.0) == {}
    assert rates.of({"n": 150.0, "new": 5.0}, 20.0) == {"n.rate": 5.0}
    assert rates.of({"n": 30.0, "new": 5.0}, 30.0) == {"n.rate": 3.0, "new.rate": 0.0}
    assert rates.of({"n": 31.0}, 30.0) == {}


def test_what_only_counts_gets_a_rate() -> None:
    bytes_sent = iter((1000.0, 3000.0))
    sensors = Sensors(
        {"net": lambda: {"net.bytes_sent": next(bytes_sent)}, "memory": lambda: {"memory.used": 7.0}}
    )
    assert sensors.sample(0.0) == {"net.bytes_sent": 1000.0, "memory.used": 7.0}
    assert sensors.sample(10.0) == {
        "net.bytes_sent": 3000.0,
        "net.bytes_sent.rate": 200.0,
        "memory.used": 7.0,
    }


def test_a_failing_sensor_is_left_out_and_reported_once(capsys: pytest.CaptureFixture[str]) -> None:
    def broken() -> dict[str, float]:
        raise RuntimeError("the driver hiccups")

    sensors = Sensors({"gpu": broken, "memory": lambda: {"memory.used": 7.0, "odd": float("nan")}})
    for at in range(3):
        assert sensors.sample(float(at)) == {"memory.used": 7.0}
    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line)["error"] == "RuntimeError: the driver hiccups"


def test_each_run_gets_the_sample_and_the_disk_of_its_own_store(tmp_path: Path) -> None:
    here, there = feed(tmp_path, 1), feed(tmp_path, 2, host="gpu-01")
    recorder(**{"memory.used": 7.0}).record((here, there))
    used = disk_used(str(tmp_path))["disk.used"]
    (plain,), (hosted,) = written(here), written(there)
    assert plain == {
        "time": 1700000000123,
        "step": 0,
        "data": {"sys/memory.used": 7.0, "sys/disk.used": pytest.approx(used, rel=0.5)},
    }
    assert set(hosted["data"]) == {"sys/gpu-01/memory.used", "sys/gpu-01/disk.used"}


def test_a_store_that_is_gone_costs_its_own_value_only(tmp_path: Path) -> None:
    assert disk_used(str(tmp_path / "gone")) == {}


def test_steps_go_on_behind_the_last_record_and_behind_what_was_delivered(tmp_path: Path) -> None:
    """G12: also when the coordinator before has delivered and removed everything."""
    one = feed(tmp_path)
    first = recorder(a=1.0)
    first.record((one,))
    first.record((one,))
    recorder(a=1.0).record((one,))
    assert [each["step"] for each in written(one)] == [0, 1, 2]
    other = feed(tmp_path, 2, first_step=40)
    recorder(a=1.0).record((other,))
    assert [each["step"] for each in written(other)] == [40]


def test_nothing_is_written_after_the_end(tmp_path: Path) -> None:
    one, writing = feed(tmp_path), recorder(a=1.0)
    writing.record((one,))
    writing.end(one.lease_id)
    writing.record((one,))
    assert len(written(one)) == 1


def test_a_sensor_that_hangs_holds_up_neither_the_end_nor_the_next_sample(tmp_path: Path) -> None:
    started, let_go = threading.Event(), threading.Event()

    def hanging() -> dict[str, float]:
        started.set()
        assert let_go.wait(PATIENCE_S)
        return {"a": 1.0}

    one = feed(tmp_path)
    writing = NodeRecorder(Sensors({"hanging": hanging}))
    thread = threading.Thread(target=writing.record, args=((one,),))
    thread.start()
    assert started.wait(PATIENCE_S)
    writing.record((one,))
    writing.end(one.lease_id)
    let_go.set()
    thread.join(PATIENCE_S)
    assert written(one) == []


def test_runs_that_are_due_just_after_each_other_share_one_sample(tmp_path: Path) -> None:
    calls = []
    counting = Sensors({"all": lambda: calls.append(1) or {"a": 1.0}})
    writing = NodeRecorder(counting, monotonic=lambda: 5.0)
    writing.record((feed(tmp_path, 1),))
    writing.record((feed(tmp_path, 2),))
    assert len(calls) == 1
    assert len(written(feed(tmp_path, 2))) == 1


def test_psutil_is_loaded_with_the_first_sample_and_not_before() -> None:
    code = "import sys, pluto_dist.coordinator.main; sys.exit('psutil' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_machine_that_hides_its_disks_has_its_other_sensors(monkeypatch: pytest.MonkeyPatch) -> None:
    import psutil

    monkeypatch.setattr(psutil, "disk_io_counters", lambda: None)
    monkeypatch.setattr(psutil, "net_io_counters", lambda: None)
    found = Sensors(module.sensors_of_this_node()).sample(1.0)
    assert "memory.used" in found
    assert not [name for name in found if name.startswith(("disk", "net"))]
