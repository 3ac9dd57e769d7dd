"""Keys of `init(settings={…})` that the official client knows and what becomes of them here.

Scripts move over with their dictionary. A few keys say something that must not be lost in the move, for
instance "do not upload": they are translated. The others mean nothing here and are noted, not refused.
"""

from __future__ import annotations

from collections.abc import Callable

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


def translate(overrides: dict[str, object]) -> tuple[dict[str, object], list[str]]:
    """Our keys for those of the official client, and a note for each key that has no meaning here.

    A key of ours that is given as well wins over its translation. Keys known to neither are left in.
    """
    ours: dict[str, object] = {}
    notes: list[str] = []
    given = dict(overrides)
    for name, rule in TRANSLATED.items():
        if name in given:
            ours |= rule(given.pop(name))
    for name in sorted(name for name in given if name in IGNORED):
        del given[name]
        notes.append(f"settings[{name!r}] has no meaning in pluto_dist and was ignored")
    return ours | given, notes
