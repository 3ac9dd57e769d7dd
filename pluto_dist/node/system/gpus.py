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


def _plain(name: str | bytes) -> str:
    text = name.decode(errors="replace") if isinstance(name, bytes) else name
    return re.sub(r"[ -]", "_", text.lower())
