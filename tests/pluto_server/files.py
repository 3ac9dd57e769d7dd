"""`POST /files`: metadata rows and presigned upload URLs. An unreadable body is refused before a bad key."""

import json
from dataclasses import dataclass
from typing import Any

from .audit_shared import FILE_TYPES
from .core import Core
from .ingest_auth import IngestError, as_u64, required_header, tenant_of
from .metrics import RunKey
from .rows import FileRow
from .wire import DroppedError, RefusalError, Request, Response, json_response, text_response

_MOST_BYTES = 2_097_152
_KNOWN_TYPES = frozenset(
    {
        *(
            "png",
            "jpg",
            "jpeg",
            "gif",
            "bmp",
            "webp",
            "svg",
            "mp4",
            "mov",
            "avi",
            "webm",
            "wav",
            "mp3",
            "ogg",
            "flac",
        ),
        *(
            "txt",
            "md",
            "csv",
            "json",
            "jsonl",
            "yaml",
            "yml",
            "xml",
            "html",
            "pdf",
            "zip",
            "tar",
            "gz",
            "py",
            "log",
        ),
        *("pt", "pth", "ckpt", "safetensors", "onnx", "npy", "npz", "h5", "pkl", "bin"),
    }
)


@dataclass(frozen=True, slots=True)
class _Field:
    kind: type
    required: bool = True
    nullable: bool = False
    below: int = 2**64


_FIELDS = {
    "fileName": _Field(str),
    "logName": _Field(str),
    "fileSize": _Field(int),
    "step": _Field(int),
    "time": _Field(int),
    "caption": _Field(str, required=False, nullable=True),
    "sampleIndex": _Field(int, required=False, below=2**32),
    "annotations": _Field(str, required=False, nullable=True),
}


def presign(core: Core, request: Request) -> Response:
    """Answer a presign request."""
    files = _extract(request)
    try:
        tenant = tenant_of(core, request)
        run_id = as_u64(required_header(request, "X-Run-Id"))
        project = required_header(request, "X-Project-Name")
    except IngestError as fault:
        return json_response({"code": fault.code, "message": fault.reason}, fault.status)
    if run_id is None:
        raise DroppedError(f"X-Run-Id {request.headers['x-run-id']!r} makes the handler panic")
    with core.state.lock:
        return json_response(_signed(core, request, (tenant, project, run_id), files))


def _signed(core: Core, request: Request, key: RunKey, files: list[dict[str, Any]]) -> dict[str, Any]:
    state, now_ms = core.state, core.state.now_ms()
    rows = [_row(key, file) for file in files]
    state.files.add(key, rows, state.visible_ms())
    names = {row.log_name for row in rows}
    core.audit.delivery.accepted(request, key, names, [row.time for row in rows])
    core.audit.shared.used(key[2], names, FILE_TYPES)
    answer: dict[str, Any] = {}
    for row in rows:
        grant = state.objects.sign(
            state.storage_url,
            "PUT",
            row.object_key,
            now_ms,
            state.settings.url_life_s,
            run_id=key[2],
            declared_size=row.file_size,
            log_name=row.log_name,
            step=row.step,
        )
        answer.setdefault(row.log_name, []).append({row.file_name: grant.url})
        core.audit.delivery.presigned(request, key, row, grant)
    return answer


def _row(key: RunKey, file: dict[str, Any]) -> FileRow:
    tenant, project, run_id = key
    object_key = f"{tenant}/{project}/{run_id}/{file['logName']}/{file['fileName']}"
    given = file["fileType"]
    return FileRow(
        file["time"],
        file["step"],
        file["logName"],
        file["fileName"],
        given["custom"] if isinstance(given, dict) else _file_type(given),
        file["fileSize"],
        object_key,
        file.get("caption"),
        file.get("annotations"),
        file.get("sampleIndex", 0),
    )


def _file_type(given: str) -> str:
    lowered = given.lower()
    if lowered not in _KNOWN_TYPES:
        return given
    return "yaml" if lowered == "yml" else lowered


def _extract(request: Request) -> list[dict[str, Any]]:
    if not request.sends_json():
        raise RefusalError(text_response("Expected request with `Content-Type: application/json`", 415))
    if len(request.body) > _MOST_BYTES:
        raise RefusalError(text_response("Failed to buffer the request body: length limit exceeded", 413))
    try:
        body = json.loads(request.body, parse_constant=_refuse_constant)
    except ValueError as fault:
        raise RefusalError(text_response(f"Failed to parse the request body as JSON: {fault}", 400)) from None
    files = body.get("files") if isinstance(body, dict) else None
    if not isinstance(files, list):
        raise _undeserializable("missing field `files`")
    for place, file in enumerate(files):
        _check_file(f"files[{place}]", file)
    return files


def _check_file(where: str, file: object) -> None:
    if not isinstance(file, dict):
        raise _undeserializable(f"{where}: invalid type, expected struct File")
    for name, field in _FIELDS.items():
        if name not in file:
            if field.required:
                raise _undeserializable(f"{where}: missing field `{name}`")
            continue
        if file[name] is None and field.nullable:
            continue
        _check_value(f"{where}.{name}", file[name], field)
    _check_file_type(where, file)


def _check_value(where: str, value: object, field: _Field) -> None:
    if isinstance(value, bool) or not isinstance(value, field.kind):
        raise _undeserializable(f"{where}: invalid type: {value!r}")
    if isinstance(value, int) and not 0 <= value < field.below:
        raise _undeserializable(f"{where}: invalid value: {value}")


def _check_file_type(where: str, file: dict[str, Any]) -> None:
    given = file.get("fileType")
    custom = isinstance(given, dict) and list(given) == ["custom"] and isinstance(given["custom"], str)
    if not custom and not isinstance(given, str):
        raise _undeserializable(f"{where}.fileType: invalid type: {given!r}")


def _undeserializable(reason: str) -> RefusalError:
    text = f"Failed to deserialize the JSON body into the target type: {reason}"
    return RefusalError(text_response(text, 422))


def _refuse_constant(token: str) -> Any:
    raise ValueError(f"{token} is not JSON")
