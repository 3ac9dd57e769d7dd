"""Facts about this process for the page of a Run that it opens: how it was started, and where.

The form is the official client's `systemMetadata`. Only facts that the process alone knows, and that cost
microseconds: the coordinator adds the machine, the packages and the state of the code.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from pluto_dist.client.console.text import MASK, redactor, secrets_of
from pluto_dist.client.values import clean_text
from pluto_dist.core.values.lifecycle import Origin

MOST_ARGUMENTS = 200
LONGEST_ARGUMENT = 1000  # characters

_SECRET = re.compile(r"key|token|secret|passw|credential", re.IGNORECASE)
_NCCL = ("NCCL_", "TORCH_NCCL_", "FI_", "OFI_", "UCX_")
_NCCL_TOO = frozenset(
    ("TORCH_DISTRIBUTED_DEBUG", "TORCH_CPP_LOG_LEVEL", "TORCH_SHOW_CPP_STACKTRACES", "GLOO_SOCKET_IFNAME")
)
_JOB = {  # how wide the job is, for grouping and filters of the page
    "world_size": "WORLD_SIZE",
    "slurm_job_id": "SLURM_JOB_ID",
    "slurm_nodelist": "SLURM_JOB_NODELIST",
}
_KONDUKTOR = {
    "job_name": "KONDUKTOR_JOB_NAME",
    "num_nodes": "NUM_NODES",
    "num_gpus_per_node": "NUM_GPUS_PER_NODE",
    "rank": "RANK",
    "master_addr": "MASTER_ADDR",
    "accelerator_type": "KONDUKTOR_ACCELERATOR_TYPE",
    "node_name": "KONDUKTOR_NODENAME",
    "restart_attempt": "RESTART_ATTEMPT",
    "namespace": "KONDUKTOR_NAMESPACE",
}

Redact = Callable[[str], str]


def origin_of_this_process(env: Mapping[str, str], api_key: str, nodes: int) -> Origin:
    """The facts, with secrets masked.

    Args:
        env: the environment; values of variables that look secret are masked wherever they stand.
        api_key: masked as well.
        nodes: of the job.
    """
    redact = redactor(secrets_of(env, api_key))
    known: dict[str, Any] = {
        "process": {
            "exe": sys.executable,
            "cmdline": command_line(sys.orig_argv, redact),
            "pid": os.getpid(),
        },
        "platform": _platform(),
        "timezone": list(time.tzname),
        "os_info": _system(),
    }
    cuda = {name: value for name, value in env.items() if name.startswith("CUDA_")}
    found = {
        "cuda": _torch_cuda() | ({"cuda_env": _masked(cuda, redact)} if cuda else {}),
        "nccl": _torch_nccl() | _nccl(env, redact),
        "job": {"nodes": nodes, **_named(_JOB, env)} if nodes > 1 or "WORLD_SIZE" in env else {},
        "konduktor": _named(_KONDUKTOR, env) if env.get("KONDUKTOR_JOB_NAME") else {},
    }
    known |= {name: value for name, value in found.items() if value}
    return Origin(
        known=msgspec.Raw(msgspec.json.encode(known)),
        folder=_folder(),
        search_path=tuple(_absolute(sys.path)),
    )


def command_line(arguments: list[str], redact: Redact) -> list[str]:
    """The arguments, without the values of options and assignments that look secret."""
    shown: list[str] = []
    hide_next = False
    for argument in arguments[:MOST_ARGUMENTS]:
        name, equals, _ = argument.partition("=")
        if hide_next:
            shown.append(MASK)
        elif equals and _SECRET.search(name):
            shown.append(f"{name}={MASK}")
        else:
            shown.append(clean_text(redact(argument)[:LONGEST_ARGUMENT]))
        hide_next = not equals and argument.startswith("-") and bool(_SECRET.search(argument))
    return shown


def _folder() -> str:
    try:
        return str(Path.cwd())
    except OSError:  # it was removed
        return ""


def _absolute(folders: list[str]) -> list[str]:
    return [folder for folder in dict.fromkeys(folders) if folder.startswith("/")]


def _platform() -> dict[str, str]:
    found = os.uname()
    return {
        "system": found.sysname,
        "node": found.nodename,
        "release": found.release,
        "version": found.version,
        "machine": found.machine,
        "processor": found.machine,
    }


def _system() -> dict[str, Any]:
    name = sys.implementation.name
    glibc = os.confstr("CS_GNU_LIBC_VERSION") if "CS_GNU_LIBC_VERSION" in os.confstr_names else None
    found: dict[str, Any] = {
        "hostname": os.uname().nodename,
        "os": _distribution(),
        "kernel": os.uname().release,
        "python": {
            "version": sys.version.partition(" ")[0],
            "implementation": {"cpython": "CPython", "pypy": "PyPy"}.get(name, name),
            "compiler": sys.version.rpartition("[")[2].rstrip("]"),
            "executable": sys.executable,
        },
    }
    return found | ({"glibc": glibc.rpartition(" ")[2]} if glibc else {})


def _distribution() -> dict[str, str]:
    try:
        lines = Path("/etc/os-release").read_text(errors="replace").splitlines()
    except OSError:  # macOS, or an image without it
        return {"name": os.uname().sysname, "version": os.uname().version}
    said = {name: value.strip("\"'") for name, _, value in (line.partition("=") for line in lines)}
    wanted = {"name": "NAME", "version": "VERSION", "pretty_name": "PRETTY_NAME", "id": "ID"}
    return {ours: said.get(theirs, "") for ours, theirs in wanted.items()}


def _torch_cuda() -> dict[str, str | None]:
    """CUDA versions of a torch that the script has imported; it is never imported for this."""
    version = getattr(sys.modules.get("torch"), "version", None)
    return {"cuda_pytorch": getattr(version, "cuda", None)} if version is not None else {}


def _torch_nccl() -> dict[str, str]:
    try:
        found = sys.modules["torch.cuda.nccl"].version()  # a constant of the library; no device is touched
        return {"nccl_pytorch": ".".join(map(str, found)) if isinstance(found, tuple) else str(found)}
    except Exception:  # noqa: BLE001 # it is not there, or was built without
        return {}


def _nccl(env: Mapping[str, str], redact: Redact) -> dict[str, Any]:
    found = {name: value for name, value in env.items() if name.startswith(_NCCL) or name in _NCCL_TOO}
    return {"nccl_env": _masked(found, redact)} if found else {}


def _masked(found: Mapping[str, str], redact: Redact) -> dict[str, str]:
    return {
        name: MASK if _SECRET.search(name) else clean_text(redact(value)[:LONGEST_ARGUMENT])
        for name, value in sorted(found.items())
    }


def _named(names: Mapping[str, str], env: Mapping[str, str]) -> dict[str, str]:
    return {ours: clean_text(env[theirs]) for ours, theirs in names.items() if env.get(theirs)}
