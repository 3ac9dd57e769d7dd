"""`pluto-dist doctor`: what this machine is like, and what to do about it.

JSON: an object of `level` ("ok", "warn" or "bad": the worst of all) and `facts`, a list of `name`, `value`,
`level`, `advice`. The exit code is 1 if something is bad.
"""

from __future__ import annotations

import os
import platform
import re
import resource
import site
import sys
import tempfile
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

import msgspec

from pluto_dist.cli.console import console, print_json, printable
from pluto_dist.cli.options import Dir, Home, Json
from pluto_dist.client.job.ancestors import read_ancestors, wrapper_above
from pluto_dist.errors import PlutoDistError
from pluto_dist.host.identity import boot_id, own_identity, pid_namespace
from pluto_dist.host.liveness import oom_counter_of, oom_kills, pidfd_trouble
from pluto_dist.host.places import (
    SOCKET_PATH_LIMIT,
    TMP_FOLDERS,
    Filesystem,
    Places,
    filesystem_of,
    find_places,
    leftover_spools,
    short_lived,
    store_of,
)
from pluto_dist.host.settings import Settings, as_option, cluster_of, load, target_of

BAD = 1
STYLES = {"ok": "green", "warn": "yellow", "bad": "bold red"}


def doctor(home: Home = None, folder: Dir = None, as_json: Json = False) -> None:
    """Reports places, their filesystems, sockets, namespaces and versions, with advice."""
    facts = gather(load(os.environ, {"home": home, "dir": folder}, source=as_option))
    level = worst(facts)
    if as_json:
        print_json({"level": level, "facts": facts})
    else:
        _print(facts)
    if level == "bad":
        raise SystemExit(BAD)


def _value(fact: Fact) -> str:
    if isinstance(fact.value, bool):
        return "yes" if fact.value else "no"
    return "unknown" if fact.value is None else printable(fact.value)


def _print(facts: tuple[Fact, ...]) -> None:
    from rich.text import Text

    out = console()
    for fact in facts:
        out.print(Text(f"{fact.level:<5}", STYLES[fact.level]), f"{fact.name:<22}", _value(fact))
        if fact.advice:
            out.print(f"      → {printable(fact.advice)}")
    troubles = sum(fact.level != "ok" for fact in facts)
    out.print("\nall is well" if not troubles else f"\nworth a look: {troubles} of {len(facts)} facts")


# Facts about this machine, each with a level and advice; JSON values only.
Level = Literal["ok", "warn", "bad"]

LITTLE_SPACE = 1 << 30
FEW_FILES = 256  # the coordinator keeps a descriptor or two per attached process
INITIAL_PID_NAMESPACE = 0xEFFF_FFFC  # linux/proc_ns.h: the machine's own, whose pid 1 does not end
PACKAGES = ("pluto-dist", "pyzmq", "msgspec", "httpx", "psutil")


class Fact(msgspec.Struct, frozen=True):
    """One line of the report.

    Attributes:
        name: stable key, for scripts.
        value: what was found.
        level: `bad` means that pluto_dist cannot work as configured.
        advice: what to do, empty if nothing.
    """

    name: str
    value: str | int | bool | None
    level: Level = "ok"
    advice: str = ""


# Nothing is changed here except that runtime and spool are made if they were missing, as any `init()` would.
def gather(settings: Settings) -> tuple[Fact, ...]:
    """All facts, in the order of the report. Never raises for what it finds; that is a `bad` fact."""
    return (
        *_software(),
        *_kernel(),
        *_settings(settings),
        *_places(settings),
        *_store(settings),
        *_cluster(settings),
    )


def worst(facts: tuple[Fact, ...]) -> Level:
    """The level of the whole report."""
    order: tuple[Level, ...] = ("ok", "warn", "bad")
    return max((fact.level for fact in facts), key=order.index, default="ok")


def _software() -> Iterator[Fact]:
    yield Fact("python", platform.python_version())
    yield Fact("executable", sys.executable)
    for package in PACKAGES:
        try:
            yield Fact(f"version.{package}", version(package))
        except PackageNotFoundError:
            yield Fact(f"version.{package}", None, "warn", f"{package} is not installed as a package")
    yield _official_hook(site.getsitepackages())


def _official_hook(folders: Iterable[str]) -> Fact:
    """The official client's file that makes every start of this interpreter import it."""
    name = "official_client_hook"
    found = [path for folder in folders for path in sorted(Path(folder).glob("*.pth"))]
    hook = next(filter(_imports_pluto, found), None)
    if hook is None:
        return Fact(name, None)
    advice = (
        "by this file every start of this Python imports pluto-ml, which takes a good part of a second, and "
        "where a key is found wandb.init() then opens a Run of its own in each process: remove the file, or "
        "keep pluto-ml in an environment of its own. The coordinator starts without it"
    )
    return Fact(name, str(hook), "warn", advice)


def _imports_pluto(path: Path) -> bool:
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return False
    return any(re.match(r"import pluto\b(?!_dist)", line) for line in lines)


def _kernel() -> Iterator[Fact]:
    yield Fact("system", f"{platform.system()} {platform.release()}")
    try:
        yield Fact("boot_id", boot_id())
    except OSError as error:
        yield Fact("boot_id", None, "bad", f"{error}; mount /proc")
    yield Fact("pid_namespace", pid_namespace())
    yield _pid_one()
    yield _slurm_task()
    yield _pidfd()
    yield _open_files()
    counter = oom_counter_of()
    yield Fact("oom_counter", str(counter) if counter else None)
    yield Fact("oom_kills", oom_kills(counter))


def _pid_one() -> Fact:
    if pid_namespace() in {0, INITIAL_PID_NAMESPACE} or 1 not in {os.getpid(), os.getppid()}:
        return Fact("near_pid_1", False)
    advice = "when pid 1 of a container ends, everything in it is killed: start the job with `pluto-dist run`"
    return Fact("near_pid_1", True, "warn", advice)


def _slurm_task() -> Fact:
    """The process of the SLURM task that this command is in, where it keeps signals from what it starts."""
    here = own_identity()
    wrapper = wrapper_above(os.environ, here, read_ancestors(here), ())
    if wrapper is None:
        return Fact("slurm_task", None)
    return Fact("slurm_task", wrapper.program, "warn", wrapper.advice)


def _pidfd() -> Fact:
    trouble = pidfd_trouble()
    if trouble is None:
        return Fact("pidfd", True)
    return Fact("pidfd", False, "warn", f"{trouble}; deaths are seen by file locks, and without exit codes")


def _open_files() -> Fact:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= soft < FEW_FILES:
        return Fact("open_files", soft, "warn", f"raise `ulimit -n` to {FEW_FILES} or more")
    return Fact("open_files", soft)


def _settings(settings: Settings) -> Iterator[Fact]:
    yield Fact("mode", settings.mode)
    yield Fact("api_key", settings.api_key is not None)
    yield Fact("api_key.source", settings.key_source or None)
    yield Fact("server", settings.url_api)
    yield _server(settings)
    for number, note in enumerate(settings.notes, 1):
        yield Fact(f"setting_note.{number}", note, "warn", "see the settings in the documentation")


def _server(settings: Settings) -> Fact:
    """Whether the server answers from here, and takes the key."""
    name = "server_answers"
    if settings.mode != "pluto" or settings.api_key is None:
        return Fact(name, None)
    from pluto_dist.backend.pluto.client import Client, Http, read_list
    from pluto_dist.backend.pluto.exchange import Failed

    http, key = Http(), settings.api_key
    try:
        found = read_list(Client(target_of(settings, Path()), lambda: key, http), settings.project, {}, 1)
    finally:
        http.close()
    if isinstance(found, Failed):
        return Fact(name, False, "bad", f"{found.outcome.reason} ({settings.url_api})")
    return Fact(name, True)


def _places(settings: Settings) -> Iterator[Fact]:
    try:
        places = find_places(settings.home)
        socket = places.socket
    except PlutoDistError as error:
        yield Fact("places", None, "bad", error.message)
        return
    for number, each in enumerate(places.rejected, 1):
        yield Fact(f"rejected.{number}", each.path, "warn", each.reason)
    for number, remark in enumerate(places.remarks, 1):
        yield Fact(f"remark.{number}", remark, "warn", "set PLUTO_DIST_HOME to a folder on local disk")
    yield Fact("runtime", str(places.runtime))
    yield from _storage("spool", places.spool, places.filesystem)
    yield Fact("socket", str(socket))
    yield Fact("socket_bytes_left", SOCKET_PATH_LIMIT - len(os.fsencode(socket)))
    yield Fact("coordinator_socket", socket.is_socket())
    yield from _leftovers(places)


def _leftovers(places: Places) -> Iterator[Fact]:
    for number, spool in enumerate(leftover_spools(places), 1):
        advice = f"an earlier job had to put its records there: `pluto-dist sync {spool}`"
        yield Fact(f"leftover_spool.{number}", str(spool), "warn", advice)


def _store(settings: Settings) -> Iterator[Fact]:
    try:
        store = store_of(settings.dir)
        found = filesystem_of(store)
    except OSError as error:
        yield Fact("store", None, "bad", str(error))
        return
    yield from _storage("store", store, found)
    reason = short_lived(store, found.fs_type, (*TMP_FOLDERS, tempfile.gettempdir()))
    advice = f"{reason}; point init(dir=…) or PLUTO_DIR to a folder that stays" if reason else ""
    yield Fact("store_outlives_job", reason is None, "warn" if reason else "ok", advice)
    yield _writable(store)


def _cluster(settings: Settings) -> Iterator[Fact]:
    """The store that the nodes of a job share; only where one is configured."""
    try:
        address = cluster_of(settings)
    except PlutoDistError as error:
        yield Fact("cluster", settings.cluster, "bad", error.message)
        return
    if address is None:
        return
    from pluto_dist.cluster.etcd import examine  # it loads httpx

    for found in examine(address):
        yield Fact(found.name, found.value, found.level, found.advice)


def _storage(name: str, path: Path, found: Filesystem) -> Iterator[Fact]:
    yield Fact(name, str(path))
    yield Fact(f"{name}.filesystem", found.fs_type or None)
    little = found.free_bytes < LITTLE_SPACE
    advice = f"less than {LITTLE_SPACE >> 30} GiB is left on the disk of {path}" if little else ""
    yield Fact(f"{name}.free_bytes", found.free_bytes, "warn" if little else "ok", advice)


def _writable(store: Path) -> Fact:
    nearest = next(folder for folder in (store, *store.parents) if folder.exists())
    if os.access(nearest, os.W_OK | os.X_OK):
        return Fact("store_writable", True)
    return Fact("store_writable", False, "bad", f"{nearest} is not writable; set PLUTO_DIR")
