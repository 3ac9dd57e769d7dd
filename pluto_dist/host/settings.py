"""Settings, and the only place that reads the environment for them.

`load` builds a frozen `Settings` once; all other code gets its values from there. Each setting has one key in
`init(settings={…})` and one environment variable: `PLUTO_DIST_<KEY>`, or the official client's name where
that has one (`PLUTO_PROJECT`, `PLUTO_API_KEY`, …; `MLOP_…` still works and is noted). An argument beats the
environment, the environment beats the default; an empty variable counts as unset.

To add a setting, add a field with its default and its line in the docstring of `Settings`, and its kind to
`_KINDS`. If the coordinator has to know it, it travels in the claim: CONTRIBUTING.md has the steps.

Scripts of the official client bring keys of their own (`translate`). A few say something that must not be
lost, for instance "do not upload": they are translated. The others mean nothing here and are noted, not
refused.
"""

from __future__ import annotations

import contextlib
import difflib
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import msgspec

from pluto_dist.core.values.engine import ClusterAddress
from pluto_dist.core.values.ids import DEFAULT_PROJECT
from pluto_dist.core.values.lifecycle import Console, Target
from pluto_dist.errors import SettingError
from pluto_dist.host import setting_kinds as kind
from pluto_dist.host.credentials import stored_key
from pluto_dist.secret import Secret

Mode = Literal["local", "pluto", "disabled"]

HOSTED = {
    "url_app": "https://pluto.trainy.ai",
    "url_api": "https://pluto-api.trainy.ai",
    "url_ingest": "https://pluto-ingest.trainy.ai",
    "url_py": "https://pluto-py.trainy.ai",
}
UNSET_MODE = "auto"
NO_WINDOWS = (
    "pluto_dist records nothing on Windows, because it needs POSIX locks and processes: use WSL or Linux, or "
    "say mode='disabled'"
)
PORTS = {"url_app": 3000, "url_api": 3001, "url_ingest": 3003, "url_py": 3004}  # on a host of one's own


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """All settings of one process, validated.

    `docs/settings.md` is made of this: what stands behind a name is what a user reads.

    Attributes:
        project: the Run's project where `init()` names none.
        run_id: the Run to join, or to create if there is none with this id; left out, a new Run.
        dir: parent of the store folder `.pluto`; left out, the working directory. It may be on a shared
            filesystem.
        api_key: of the server. Left out, what `pluto login` stored, else the file
            `~/.config/pluto-dist/key` (mode 0600). Local mode has none.
        key_source: where the key is from, for people.
        host: a server of your own on the standard ports (app 3000, api 3001, ingest 3003, py 3004); overrides
            all four addresses.
        url_app: address of the server's pages.
        url_api: address of the server's API.
        url_ingest: address that takes the data.
        url_py: address of the service that resumes Runs.
        home: folder for runtime and spool, on local disk; left out, `/var/tmp/pluto-dist-<uid>`, or the like
            below `/tmp` or `/dev/shm`.
        mode: `auto` is `pluto` (the server) with an API key, else `local`, and `disabled` on Windows;
            `disabled` costs nothing and never fails.
        required: trouble with the machine is an error instead of one warning and a disabled Run (R13).
        quiet: nothing is printed at `init()` and at the end.
        strict: misuse raises instead of warning.
        exit_wait_s: how long the last process out waits for delivery (R11).
        sigterm_wait_s: the same after SIGTERM.
        preempt_wait_s: how long after SIGTERM a script that looks at `run.preempted` may take to end.
        open_wait_s: how long `init()` waits for a server; then training starts without the server's ids (R8).
        heartbeat_s: how often a process says that it lives, when nothing else happens.
        idle_exit_s: a coordinator without anything to do ends after this time (R3).
        spool_quota: disk that the spool may take; left out, the smaller of 2 GiB and 10 % of the free space.
        files_quota: disk that logged files may take until they are delivered, apart from `spool_quota`; left
            out, 10 % of the free space. A file that does not fit stays where it is, with a reference to it.
        sides_share: percent of `spool_quota` and of `files_quota` that all sides of a node together may take;
            a sidecar that runs wild loses its own records, and the training none.
        sides_limit: so many sides may be attached to a Run at a time; that of its owner counts.
        upload_rate: bytes a second with which the files of this process are uploaded, those of others on the
            node counted in; 0 for as fast as it goes.
        files_copy: logged files up to this size are copied, and `log()` waits for that; larger ones are not.
        segment_size: a spool segment is closed when it is larger than this.
        retention_segments: so many segments of a stream, the newest ones, stay in the spool as long as the
            process lives, although they are delivered. Two at least: the one that is written, and one for
            writes in flight when it began.
        durability: what accepted records survive: `process` the death of any process, `machine` also power
            loss, by a group fsync about once a second.
        console: what is recorded of the output. `auto`: Python's stdout and stderr of owners and workers
            outside of notebooks; `wrap`: the same of every process; `fd`: the file descriptors, so C++ and
            child programs too; `off`. `pluto-dist run` records what its command prints in the same way where
            that is no terminal, with `fd` there too.
        on_cancel: what a process does, beside a warning, when its Run is cancelled on the server: `interrupt`
            raises KeyboardInterrupt in its main thread.
        rank_metrics: what becomes of the series of ranks (R7): `auto`, a suffix where a name is taken;
            `suffix`, always a suffix; `rank0`, those of other ranks are left out; `reduce`, those of all
            ranks become one, with their mean, extremes and deviation.
        reduce: with `rank_metrics="reduce"`, one statistic for names that fit a pattern, under the plain
            name: `{"loss": "mean", "tokens": "sum", "grad/*": "max"}`; the others have all.
        system_metrics_s: how often CPU, memory, disk, network and GPU are sampled, once per node; 0 is never.
        stuck_after_s: a rank that is silent for so long while others go on or wait for it is named in an
            event and in a warning of the owner; nothing is killed.
        cluster: address of the store that all nodes of a job share, `etcd://host:port[,host:port…][/prefix]`;
            left out or `off`, none (R12). `pluto-dist doctor` says whether it is fit.
        cluster_ca: certificate authority for `etcds://`, a PEM file; left out, those of the system.
        cluster_cert: certificate of this client for `etcds://`, a PEM file.
        cluster_key: key of that certificate, a PEM file.
        cluster_user: login at the store, where it has users.
        cluster_password_file: file with the password of that login.
        cluster_ttl_s: a node that is silent at the store for so long counts as lost.
        cluster_strict: no status is sent while the store cannot be reached, even if the server then takes the
            Run for dead.
        launched_by: lease of the `pluto-dist run` that started this process, which sets it; not for people.
        disabled_because: why `auto` is `disabled`, "" where it was asked for or is not.
        notes: remarks that are worth a line in `doctor`, never an error.
        left_out: settings of the official client that mean something and have no meaning here; told once.
    """

    project: str = DEFAULT_PROJECT
    run_id: str | None = None
    dir: Path | None = None
    api_key: Secret | None = None
    key_source: str = ""
    host: str | None = None
    url_app: str = HOSTED["url_app"]
    url_api: str = HOSTED["url_api"]
    url_ingest: str = HOSTED["url_ingest"]
    url_py: str = HOSTED["url_py"]
    home: Path | None = None
    mode: Mode = "local"
    required: bool = False
    quiet: bool = False
    strict: bool = False
    exit_wait_s: float = 20.0
    sigterm_wait_s: float = 10.0
    preempt_wait_s: float = 20.0
    open_wait_s: float = 10.0
    heartbeat_s: float = 5.0
    idle_exit_s: float = 60.0
    spool_quota: int | None = None
    files_quota: int | None = None
    sides_share: int = 50
    sides_limit: int = 1000
    upload_rate: int = 0
    files_copy: int = 1 << 20
    segment_size: int = 4 << 20
    retention_segments: int = 2
    durability: Literal["process", "machine"] = "process"
    console: Console = "auto"
    on_cancel: Literal["warn", "interrupt"] = "warn"
    rank_metrics: Literal["auto", "suffix", "rank0", "reduce"] = "auto"
    reduce: str = ""
    system_metrics_s: float = 10.0
    stuck_after_s: float = 600.0
    cluster: str = ""
    cluster_ca: str | None = None
    cluster_cert: str | None = None
    cluster_key: str | None = None
    cluster_user: str | None = None
    cluster_password_file: str | None = None
    cluster_ttl_s: int = 15
    cluster_strict: bool = False
    launched_by: str | None = None
    disabled_because: str = ""
    notes: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


_WITH_PASSWORD = re.compile(r"//.*@")
_WAIT = kind.number(0, 86_400, "seconds")
_KINDS: dict[str, kind.Kind] = {
    "project": kind.text(255),  # the server's limit
    "run_id": kind.RUN_ID,
    "dir": kind.FOLDER,
    "api_key": kind.KEY,
    "host": kind.HOST,
    **dict.fromkeys(HOSTED, kind.URL),
    "home": kind.HOME,
    "mode": kind.choice("auto", "local", "pluto", "disabled"),
    **dict.fromkeys(("required", "quiet", "strict"), kind.FLAG),
    **dict.fromkeys(("exit_wait_s", "sigterm_wait_s", "preempt_wait_s"), _WAIT),
    "open_wait_s": _WAIT,
    "heartbeat_s": kind.number(0.1, 60, "seconds"),  # the server's monitor acts after 150 s
    "idle_exit_s": kind.number(0.1, 86_400, "seconds"),
    "spool_quota": kind.size(1 << 20, 1 << 50),
    "files_quota": kind.size(0, 1 << 60),
    "sides_share": kind.count(1, 100),
    "sides_limit": kind.count(1, 100_000),
    "upload_rate": kind.size(0, 1 << 60),
    "files_copy": kind.size(0, 1 << 60),
    "segment_size": kind.size(64 << 10, 1 << 30),
    "retention_segments": kind.count(2, 1_000_000),
    "durability": kind.choice("process", "machine"),
    "console": kind.choice("auto", "wrap", "fd", "off"),
    "on_cancel": kind.choice("warn", "interrupt"),
    "rank_metrics": kind.choice("auto", "suffix", "rank0", "reduce"),
    "reduce": kind.REDUCE,
    "system_metrics_s": kind.number(0, 86_400, "seconds"),
    "stuck_after_s": kind.number(0.1, 86_400, "seconds"),
    "cluster": kind.CLUSTER,
    **dict.fromkeys(("cluster_ca", "cluster_cert", "cluster_key", "cluster_password_file"), kind.FILE),
    "cluster_user": kind.text(255),
    "cluster_ttl_s": kind.count(8, 120),  # the margin takes 4 of them, and a renewal has to fit in thrice
    "cluster_strict": kind.FLAG,
    "launched_by": kind.LEASE,
}
_OFFICIAL_NAMES = {
    "project": ("PLUTO_PROJECT", "MLOP_PROJECT"),
    "run_id": ("PLUTO_RUN_ID", "MLOP_RUN_ID"),
    "dir": ("PLUTO_DIR", "MLOP_DIR"),
    "api_key": ("PLUTO_API_KEY", "MLOP_API_TOKEN"),
    **{name: (f"PLUTO_{name.upper()}", f"MLOP_{name.upper()}") for name in HOSTED},
}


class _Given(msgspec.Struct, frozen=True):
    """A value with where it came from."""

    value: object
    source: str


def variables_of(key: str) -> tuple[str, ...]:
    """Environment variables of a setting: the current name first, deprecated ones after it."""
    return _OFFICIAL_NAMES.get(key, (f"PLUTO_DIST_{key.upper()}",))


def allowed_of(key: str) -> str:
    """Allowed values of a setting, for errors and for the documents."""
    return _KINDS[key].allowed


def default_of(key: str) -> str:
    """A setting's default, for the documents; "" where nothing is set by default."""
    value = UNSET_MODE if key == "mode" else getattr(Settings(), key)
    if isinstance(value, bool):
        return "on" if value else "off"
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def in_init(key: str) -> str:
    """The source of a setting of `init(settings={…})`, for errors."""
    return f"init(settings={{{key!r}: …}})"


def as_option(key: str) -> str:
    """The source of a setting of the command line, for errors."""
    return f"option --{key.replace('_', '-')}"


def load(
    env: Mapping[str, str],
    overrides: Mapping[str, object] | None = None,
    *,
    source: Callable[[str], str] = in_init,
    platform: str = sys.platform,
) -> Settings:
    """Reads and validates all settings.

    Where the mode is `disabled`, no other setting matters: one that cannot be used keeps its default.

    Args:
        env: the environment.
        overrides: what the caller gives by name; None as a value means "not given".
        source: where the caller has given an override, for errors.
        platform: as `sys.platform`.

    Raises:
        SettingError: a value cannot be used or a key is unknown; nothing is guessed.
    """
    ours, notes, left_out = translate(dict(overrides or {}))
    given = {key: found for key in _KINDS if (found := _find(key, env, ours, source)) is not None}
    wanted = _parse("mode", given["mode"]) if "mode" in given else UNSET_MODE
    if wanted == "disabled" or (wanted == "auto" and platform == "win32"):
        return _disabled(given, because=NO_WINDOWS if wanted == "auto" else "")
    _refuse_unknown(ours, source)
    values = {key: _parse(key, found) for key, found in given.items()}
    values |= _addresses(values)
    if "api_key" in given:
        values["key_source"] = given["api_key"].source
    asked = values.get("mode", UNSET_MODE)
    if "api_key" not in values and asked in ("auto", "pluto") and platform != "win32":
        stored = stored_key(env)
        values |= {"api_key": stored.key, "key_source": stored.source} if stored is not None else {}
    values["mode"] = _mode(values, given)
    notes += [*_deprecations(given), *_misspelt(env)]
    return msgspec.convert({**values, "notes": tuple(notes), "left_out": tuple(left_out)}, Settings)


def target_of(settings: Settings, store: Path) -> Target:
    """The target of this process's records; two Runs with different targets never mix.

    Raises:
        SettingError: pluto_dist is disabled, so there is no target.
    """
    if settings.mode == "disabled":
        raise SettingError("no target: pluto_dist is disabled", setting="mode", value="disabled")
    if settings.mode == "local" or settings.api_key is None:
        return Target(mode="local", store=str(store))
    return Target(
        mode="pluto",
        store=str(store),
        url_api=settings.url_api,
        url_ingest=settings.url_ingest,
        url_py=settings.url_py,
        url_app=settings.url_app,
        key_id=settings.api_key.digest,
    )


def _disabled(given: Mapping[str, _Given], because: str) -> Settings:
    values: dict[str, object] = {}
    for key, found in given.items():
        with contextlib.suppress(SettingError):
            values[key] = _parse(key, found)
    return msgspec.convert({**values, "mode": "disabled", "disabled_because": because}, Settings)


def _find(
    key: str, env: Mapping[str, str], overrides: Mapping[str, object], source: Callable[[str], str]
) -> _Given | None:
    if overrides.get(key) is not None:
        return _Given(overrides[key], source(key))
    for name in variables_of(key):
        if env.get(name, "").strip():
            return _Given(env[name], f"environment variable {name}")
    return None


def _parse(key: str, given: _Given) -> object:
    reader = _KINDS[key]
    try:
        return reader.parse(given.value)
    except Exception as error:  # noqa: BLE001 # `~` of a user without a home, an integer beyond a float, code of others
        shown = "<not shown>" if reader.secret else _shown(given.value)
        because = f" ({error})" if isinstance(error, kind.UnfitError) else ""
        raise SettingError(
            f"setting {key} = {shown} from {given.source} is not usable{because}; allowed: {reader.allowed}",
            setting=key,
            value=shown,
            source=given.source,
            allowed=reader.allowed,
        ) from None


def _shown(value: object) -> str:
    """The value for an error message; objects may refuse to be shown, and so do very long integers."""
    try:
        return repr(_WITH_PASSWORD.sub("//***@", str(value)))[:200]
    except Exception:  # noqa: BLE001 # code of others
        return f"<a value of type {type(value).__name__}>"


def _addresses(values: Mapping[str, object]) -> dict[str, object]:
    host = values.get("host")
    return {} if host is None else {name: f"http://{host}:{port}" for name, port in PORTS.items()}


def _mode(values: Mapping[str, object], given: Mapping[str, _Given]) -> object:
    wanted = values.get("mode", UNSET_MODE)
    has_key = values.get("api_key") is not None
    if wanted == "pluto" and not has_key:
        raise SettingError(
            f"setting mode = 'pluto' from {given['mode'].source} needs an API key: set PLUTO_API_KEY, "
            "run `pluto login`, or use mode 'local' and upload later with `pluto-dist sync`",
            setting="mode",
            value="pluto",
            source=given["mode"].source,
        )
    if wanted != "auto":
        return wanted
    return "pluto" if has_key else "local"


def _refuse_unknown(overrides: Mapping[str, object], source: Callable[[str], str]) -> None:
    for name in overrides:
        if name not in _KINDS:
            near = difflib.get_close_matches(str(name), _KINDS, n=3)
            advice = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(_KINDS)}"
            raise SettingError(
                f"{source(str(name))}: there is no setting {name!r}; {advice}", setting=str(name), near=near
            )


def _deprecations(given: Mapping[str, _Given]) -> list[str]:
    return [
        f"{found.source} is deprecated; use {variables_of(key)[0]}"
        for key, found in given.items()
        if "MLOP_" in found.source
    ]


def _misspelt(env: Mapping[str, str]) -> list[str]:
    """Remarks on unknown variables; no errors, because a newer version may know them."""
    known = [name for key in _KINDS for name in variables_of(key)]
    unknown = sorted(name for name in env if name.startswith("PLUTO_DIST_") and name not in known)
    return [
        f"environment variable {name} is no setting of this version"
        + (f"; did you mean {near[0]}?" if (near := difflib.get_close_matches(name, known, n=1)) else "")
        for name in unknown
    ]


def cluster_of(settings: Settings) -> ClusterAddress | None:
    """The store that the nodes of a job share, None without one.

    Raises:
        SettingError: its companions do not fit.
    """
    if not settings.cluster or settings.mode == "disabled":
        return None
    place = kind.cluster_place(settings.cluster)
    _check_companions(settings, tls=place.tls)
    return ClusterAddress(
        members=place.members,
        prefix=place.prefix,
        ca=settings.cluster_ca or "",
        cert=settings.cluster_cert or "",
        key=settings.cluster_key or "",
        user=settings.cluster_user or "",
        password_file=settings.cluster_password_file or "",
        ttl_s=settings.cluster_ttl_s,
        strict=settings.cluster_strict,
    )


def _check_companions(settings: Settings, *, tls: bool) -> None:
    """Checks that a user has a password, a certificate its key, and that the files exist."""
    if bool(settings.cluster_user) != bool(settings.cluster_password_file):
        raise SettingError(
            "setting cluster_user needs cluster_password_file, and the other way round: a client certificate "
            "alone is no user at etcd's gateway",
            setting="cluster_user",
        )
    if settings.cluster_cert and not settings.cluster_key:
        raise SettingError(
            "setting cluster_cert needs cluster_key, the file of its key", setting="cluster_cert"
        )
    for name in ("cluster_ca", "cluster_cert", "cluster_key"):
        if getattr(settings, name) and not tls:
            raise SettingError(
                f"setting {name} is for TLS, and cluster begins with etcd://: write etcds://", setting=name
            )
    for name in ("cluster_ca", "cluster_cert", "cluster_key", "cluster_password_file"):
        path = getattr(settings, name)
        if path and not Path(path).is_file():
            raise SettingError(f"setting {name} = {path!r}: there is no such file", setting=name, value=path)


def settings_keys() -> tuple[str, ...]:
    """All keys of `init(settings={…})`, in the order of the documentation."""
    return tuple(_KINDS)


_NAMES = """
tag _sys compat meta message disable_store disable_iface disable_progress sanitize_logs
x_console_fd_capture _op_name _op_id _op_status _display_id _external_id _external_id_from_env
_resume_run_id _resume_display_id _fork_run_id _fork_step _inherit_config _inherit_tags store_db
store_table_num store_table_file store_max_size store_aggregate_interval http_proxy https_proxy
insecure_disable_ssl x_log_level x_internal_check_process x_file_stream_retry_max
x_file_stream_retry_wait_min_seconds x_file_stream_retry_wait_max_seconds
x_file_stream_timeout_seconds x_file_stream_max_conn x_file_stream_max_size
x_file_stream_transmit_interval x_sys_label x_thread_join_timeout_seconds x_sigterm_status_enabled
x_sigterm_status_timeout_seconds x_grad_label x_param_label pluto_version pluto_commit
sync_process_db_path sync_process_flush_interval sync_process_shutdown_timeout
sync_process_orphan_timeout sync_process_retry_max sync_process_retry_backoff
sync_process_batch_size sync_process_file_batch_size url_view url_webhook url_token url_login
url_start url_resume url_stop url_meta url_graph url_update_tags url_update_config url_num url_data
url_file url_message url_alert url_trigger
"""
IGNORED = frozenset(_NAMES.split())
_PROXY = "set HTTPS_PROXY in the environment"
_IN_INIT = "it is an argument of init()"
MATTERS = {  # a script that gives one of these means something that does not happen here
    "http_proxy": _PROXY,
    "https_proxy": _PROXY,
    "insecure_disable_ssl": "give the server's certificate by SSL_CERT_FILE",
    "disable_iface": "mode='local' uploads nothing",
    "_external_id": "pass init(run_id=…)",
    "_resume_run_id": "pass init(run_id=…)",
    "_resume_display_id": "pass init(run_id=…)",
    "_op_name": "pass init(name=…)",
    **dict.fromkeys(("_fork_run_id", "_fork_step", "_inherit_config", "_inherit_tags"), _IN_INIT),
    "compat": "Runs of other trackers are brought over by `pluto migrate`",
    "sanitize_logs": "what looks like a secret is always masked in the record",
    "url_webhook": "no webhook is called",
    **dict.fromkeys(("x_sys_label", "x_grad_label", "x_param_label"), "series have their usual prefix"),
}
_NOTHING = {"sanitize_logs": (None, True)}  # values that ask for nothing

_MODES: dict[object, dict[str, object]] = {"perf": {}, "debug": {}, "noop": {"mode": "disabled"}}


def _when(condition: bool, key: str, value: object) -> dict[str, object]:
    return {key: value} if condition else {}


TRANSLATED: dict[str, Callable[[object], dict[str, object]]] = {
    "_auth": lambda given: _when(given is not None, "api_key", given),
    "sync_process_enabled": lambda given: _when(not given, "mode", "local"),
    "disable_console": lambda given: _when(bool(given), "console", "off"),
    "x_sys_sampling_interval": lambda given: {"system_metrics_s": given},
    "disable_system_metrics": lambda given: _when(bool(given), "system_metrics_s", 0),
    "mode": lambda given: _MODES.get(given, {"mode": given}) if isinstance(given, str) else {"mode": given},
}


def translate(overrides: dict[str, object]) -> tuple[dict[str, object], list[str], list[str]]:
    """Our keys for those of the official client, with remarks on keys that have no meaning here.

    A key of ours that is given as well wins over its translation. Keys known to neither are left in.

    Returns:
        Our keys; a note for each key that has no meaning here; a line for each that would have mattered.
    """
    ours: dict[str, object] = {}
    notes: list[str] = []
    left_out: list[str] = []
    given = dict(overrides)
    for name, rule in TRANSLATED.items():
        if name in given:
            ours |= rule(given.pop(name))
    for name in sorted(name for name in given if name in IGNORED):
        value = given.pop(name)
        notes.append(f"settings[{name!r}] has no meaning in pluto_dist and was ignored")
        if name in MATTERS and value not in _NOTHING.get(name, (None, False, {})):
            left_out.append(f"settings[{name!r}] of the official client was left out: {MATTERS[name]}")
    return ours | given, notes, left_out
