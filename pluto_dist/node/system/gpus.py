"""NVIDIA cards by NVML; all of them, whatever CUDA_VISIBLE_DEVICES a trainer has."""

from __future__ import annotations

import re
from typing import Any


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
