"""Description of machine and code for the page of a Run on a server, in the official client's form.

It is sent once, when the Run is created, so the creation waits for it, and it is bounded: a fact that is not
known within `PATIENCE_S` is left out, and so is one that cannot be found at all. The server takes it at that
moment only. For a Run that is made later, by another coordinator or by `sync`, the store has it. A local Run
does not wait for it: it is open before the facts are found.
"""

from __future__ import annotations

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
from pluto_dist.coordinator.sampler import INFINIBAND
from pluto_dist.core.values.backend import OpenRequest, OpenResult, RunOpened, Unavailable
from pluto_dist.core.values.effects import OpenRun
from pluto_dist.core.values.lifecycle import Origin

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
    from pluto_dist.coordinator.sampler import described, nvml_of_this_node

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
