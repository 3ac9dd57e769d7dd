"""One experiment Run for many processes: ranks, eval sidecars and uploaders share it, only its owner ends it.

    import pluto_dist as pluto

    run = pluto.init(project="digits", config={"lr": 0.1})
    run.log({"loss": 0.5})
    run.finish()

Layers; imports point inwards (`tests/test_layers.py` holds them):

    core        decides: values, rules, machine. No clock, socket, file, thread, environment
    spool       record files of a process, written and read
    transport   the socket between processes and their coordinator
    backend     where records go: the store folder, or the Pluto server
    cluster     what the nodes of a job share: etcd
    host        what this machine is like: settings, folders, locks, processes
    coordinator the process that owns Runs
    client      what runs in the trainer
    sync        uploads what a store holds
    read        finds Runs and reads them, for people, notebooks and commands
    cli         the command line
    integrations  Lightning and Hugging Face; each module loads its framework

Importing this package has no side effect and loads none of the heavy libraries.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from pluto_dist import errors

if TYPE_CHECKING:
    from pluto_dist.client.api import alert, attach, finish, init, log, login, watch
    from pluto_dist.client.interface import Settings, setup
    from pluto_dist.client.media.files import Artifact, Audio, File, Image, Text, Video
    from pluto_dist.client.media.tables import Data, Histogram, Table
    from pluto_dist.client.opening import generate_run_id
    from pluto_dist.client.run import Run

__all__ = [
    "Artifact",
    "Audio",
    "Data",
    "File",
    "Histogram",
    "Image",
    "Run",
    "Settings",
    "Table",
    "Text",
    "Video",
    "alert",
    "attach",
    "errors",
    "finish",
    "generate_run_id",
    "init",
    "log",
    "login",
    "setup",
    "watch",
]
__version__ = "0.1.0"

_LAZY = {
    "Artifact": "pluto_dist.client.media.files",
    "Audio": "pluto_dist.client.media.files",
    "Data": "pluto_dist.client.media.tables",
    "File": "pluto_dist.client.media.files",
    "Histogram": "pluto_dist.client.media.tables",
    "Image": "pluto_dist.client.media.files",
    "Run": "pluto_dist.client.run",
    "Settings": "pluto_dist.client.interface",
    "Table": "pluto_dist.client.media.tables",
    "Text": "pluto_dist.client.media.files",
    "Video": "pluto_dist.client.media.files",
    "alert": "pluto_dist.client.api",
    "attach": "pluto_dist.client.api",
    "finish": "pluto_dist.client.api",
    "generate_run_id": "pluto_dist.client.api",
    "init": "pluto_dist.client.api",
    "log": "pluto_dist.client.api",
    "login": "pluto_dist.client.api",
    "setup": "pluto_dist.client.interface",
    "watch": "pluto_dist.client.api",
}
_ELSEWHERE = {
    "ops": "keep the Run that init() returns; pluto.finish() ends all of this process",
    "logout": "unset PLUTO_API_KEY, or run `pluto logout` of the official client",
    "query": "the official client has it: pluto.query reads what is on the server",
    "sweep": "the official client has it; start the trials yourself and call init() in each",
    "agent": "the official client has it; start the trials yourself and call init() in each",
    "System": "system metrics are recorded by the coordinator, once per node",
    "Graph": "the official client has it; log the model's structure as Text or File",
}


def __getattr__(name: str) -> Any:
    if name == "Run" and sys.platform == "win32":  # there is no other one there (R13)
        from pluto_dist.client.offline import DisabledRun

        return DisabledRun
    if name in _LAZY:
        import importlib

        return getattr(importlib.import_module(_LAZY[name]), name)
    if name in _ELSEWHERE:
        raise AttributeError(f"pluto_dist has no {name!r}: {_ELSEWHERE[name]}")
    raise AttributeError(f"module 'pluto_dist' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
