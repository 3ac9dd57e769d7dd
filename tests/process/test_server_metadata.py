"""What the page of a Run shows of process, machine and code: sent once, when the Run is made."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.process.harness import wait_until
from tests.process.served import Served

SECRET = "hf_0123456789"
DESCRIBED = {"PLUTO_DIST_SYSTEM_METRICS_S": "60", "NCCL_DEBUG": "INFO", "HF_TOKEN": SECRET}
SCRIPT = """
    run = pluto.init(run_id="described", config={"lr": 1})
    log(run, {"loss": 1.0}, 0)
"""


def described(served: Served) -> dict[str, Any]:
    found = served.ended_remotely("described")["systemMetadata"]
    assert isinstance(found, dict)
    return found


def check(found: dict[str, Any]) -> None:
    """The panels of the page have what they look for (G11: no secret)."""
    assert found["process"]["cmdline"][-3:] == ["--hf-token", "***", "--quiet"]
    assert found["cpu"]["virtual"] > 0
    assert found["memory"]["virt"] > 0
    assert any(package.startswith("msgspec==") for package in found["requirements"])
    assert found["os_info"]["python"]["version"]
    assert found["nccl"]["nccl_env"] == {"NCCL_DEBUG": "INFO"}
    assert found["pluto_dist"] == {"run_id": "described"}
    assert SECRET not in json.dumps(found)


def test_the_page_knows_process_machine_and_packages(served: Served) -> None:
    """The server key is in nothing of it either."""
    env = DESCRIBED
    script = served.start(SCRIPT, "--hf-token", SECRET, "--quiet", env=env)
    assert script.wait() == 0
    check(described(served))
    assert "mlps_" not in json.dumps(described(served))


def test_a_run_that_is_uploaded_later_has_it_too(served: Served) -> None:
    """From the store, which may be uploaded on another machine."""
    env = DESCRIBED | {"PLUTO_DIST_MODE": "local"}
    script = served.start(SCRIPT, "--hf-token", SECRET, "--quiet", env=env)
    assert script.wait() == 0
    served.ended("described")
    wait_until(lambda: list(served.store.glob("runs/*/system.json")), "what is known of the machine")
    served.cli("sync", "described")
    check(described(served))


def test_so_has_one_that_was_made_while_the_server_was_down(served: Served) -> None:
    served.cut_off()
    env = DESCRIBED | {"PLUTO_DIST_OPEN_WAIT_S": "0.5"}
    script = served.start(SCRIPT + "    tell('up'); hear()", "--hf-token", SECRET, "--quiet", env=env)
    script.expect("up")
    served.back()
    script.say()
    assert script.wait() == 0
    check(described(served))
    assert list(served.store.glob("runs/*/system.json")) == []


@pytest.mark.parametrize("setting", ["PLUTO_DIST_SYSTEM_METRICS_S"])
def test_where_the_machine_is_not_measured_it_is_not_described(served: Served, setting: str) -> None:
    """As with the official client's disable_system_metrics."""
    script = served.start(SCRIPT, env={setting: "0"})
    assert script.wait() == 0
    assert described(served) == {"pluto_dist": {"run_id": "described"}}
