"""What answers of the server mean, as one table."""

import pytest

from pluto_dist.backend.pluto.exchange import (
    Answer,
    Broken,
    Kind,
    Progress,
    classify,
    classify_broken,
    epoch_s,
    explain,
    is_expired,
    seconds_until,
)
from pluto_dist.core.values.backend import Delivered, Rejected, Retry, Unknown

OK = b'{"success":true}'
DONE = b"Stream processed successfully: 3 records"
PAGE = b"<html><body>proxy</body></html>"
NOT_FOUND = b'{"error":"Run not found"}'
ZOD = (
    b'{"success":false,"error":{"issues":[{"code":"invalid_type","path":["runId"],"message":"Required"}],'
    b'"name":"ZodError"}}'
)


def ingest_failure(kind: str, family: str = "Processing") -> bytes:
    text = f"Failed to process data stream: {kind} (3001 - {family}): why"
    return b'{"code":"PROCESSING_FAILED","message":"%s"}' % text.encode()


KEY = "key problem"
TABLE: list[tuple[Kind, int, bytes, object]] = [
    # what the service says on success, and only that
    ("control", 200, OK, Delivered),
    ("control", 201, OK, Delivered),
    ("read", 200, b'{"id":1}', Delivered),
    ("beat", 200, b'{"status":"RUNNING","triggers":null}', Delivered),
    ("metrics", 200, DONE, Delivered),
    ("rows", 200, DONE, Delivered),
    ("presign", 200, b'{"a":[{"f":"http://u"}]}', Delivered),
    ("put", 200, b"", Delivered),
    ("put", 201, b"", Delivered),
    # a proxy's page, or an answer that breaks off
    ("control", 200, PAGE, Retry),
    ("control", 200, b'{"succ', Retry),
    ("control", 200, b"", Retry),
    ("control", 204, b"", Retry),
    ("read", 200, PAGE, Retry),
    ("beat", 200, PAGE, Retry),
    ("metrics", 200, PAGE, Unknown),
    ("rows", 200, PAGE, Unknown),
    ("rows", 200, b"", Unknown),
    ("rows", 200, b"Stream processed successfully: 3 rec", Unknown),
    ("rows", 204, b"", Unknown),
    ("presign", 200, PAGE, Unknown),
    ("presign", 200, b"\xff", Unknown),
    ("put", 200, PAGE, Retry),
    ("put", 204, b"", Retry),
    # the key
    ("control", 401, b'{"error":"Unauthorized","message":"Key not found"}', KEY),
    ("beat", 401, b'{"detail":"Invalid or expired API key for this run"}', KEY),
    ("presign", 401, b'{"code":"INVALID_TOKEN","message":"no"}', KEY),
    ("metrics", 401, PAGE, KEY),
    ("rows", 422, ingest_failure("InvalidToken", "Auth"), KEY),
    ("rows", 422, ingest_failure("MissingToken", "Auth"), KEY),
    ("metrics", 422, ingest_failure("InvalidBearerFormat", "Auth"), KEY),
    ("metrics", 422, ingest_failure("InvalidTokenFormat", "Auth"), KEY),
    # a 422 of ingest that is the server's own trouble
    ("metrics", 422, ingest_failure("DatabaseError", "Database"), Retry),
    ("rows", 422, ingest_failure("DatabaseError", "Database"), Retry),
    ("metrics", 422, ingest_failure("StreamProcessingError"), Retry),
    ("rows", 422, ingest_failure("StreamProcessingError"), Unknown),
    ("rows", 422, ingest_failure("NewTrouble", "System"), Unknown),
    # … and one that is ours
    ("metrics", 422, ingest_failure("StreamDecodingError"), Rejected),
    ("rows", 422, ingest_failure("StreamDecodingError"), Rejected),
    ("metrics", 422, ingest_failure("InvalidMetricFormat"), Rejected),
    ("rows", 422, ingest_failure("InvalidLogFormat"), Rejected),
    ("rows", 422, ingest_failure("InvalidHeaderFormat", "Validation"), Rejected),
    ("rows", 422, PAGE, Unknown),
    # refusals of the JSON services, and what only looks like one
    ("control", 400, ZOD, Rejected),
    ("control", 400, b'{"error":"Invalid config JSON"}', Rejected),
    ("control", 404, NOT_FOUND, Rejected),
    ("read", 404, NOT_FOUND, Rejected),
    ("control", 409, b'{"error":"displayId is ambiguous"}', Rejected),
    ("beat", 404, b'{"detail":"Run not found"}', Rejected),
    ("beat", 422, b'{"detail":[{"type":"missing","loc":["body","runId"],"msg":"Field required"}]}', Rejected),
    ("control", 404, b"404 Not Found", Retry),
    ("control", 404, b"default backend - 404", Retry),
    ("control", 400, PAGE, Retry),
    ("control", 403, b'{"error":"blocked"}', Retry),
    ("control", 302, b"", Retry),
    ("rows", 302, b"", Retry),
    ("rows", 404, PAGE, Retry),
    ("presign", 404, PAGE, Retry),
    ("presign", 400, b'{"code":"INVALID_HEADER_FORMAT","message":"no project"}', Rejected),
    ("presign", 422, b"Failed to deserialize the JSON body", Rejected),
    ("presign", 415, b"Expected request with `Content-Type: application/json`", Rejected),
    # too large: halving helps
    ("metrics", 413, PAGE, Rejected),
    ("rows", 413, PAGE, Rejected),
    ("presign", 413, b"length limit exceeded", Rejected),
    ("control", 413, PAGE, Rejected),
    ("put", 413, b"", Rejected),
    ("put", 400, b"<Error><Code>EntityTooLarge</Code></Error>", Rejected),
    # later
    ("control", 429, b"", Retry),
    ("rows", 429, b"", Retry),
    ("rows", 408, b"", Unknown),  # lines that were read in time are accepted
    ("presign", 429, b"", Retry),
    ("put", 429, b"", Retry),
    # an outage: harmless to repeat, or not
    ("control", 500, b'{"error":"Internal Server Error"}', Retry),
    ("control", 503, b"", Retry),
    ("read", 502, PAGE, Retry),
    ("beat", 500, b"", Retry),
    ("metrics", 503, b"", Unknown),
    ("rows", 500, b"", Unknown),
    ("rows", 503, PAGE, Unknown),
    ("presign", 500, b'{"code":"INTERNAL_ERROR","message":"x"}', Unknown),
    ("presign", 503, b'{"code":"DATABASE_ERROR","message":"x"}', Retry),
    ("presign", 503, PAGE, Unknown),
    # an alert is mailed before it may fail
    ("alert", 200, b'{"status":"success"}', Delivered),
    ("alert", 200, PAGE, Unknown),
    ("alert", 500, b'{"detail":"Failed to send alert: why"}', Unknown),
    ("alert", 502, PAGE, Unknown),
    ("alert", 404, b'{"detail":"Run not found"}', Rejected),
    ("alert", 404, PAGE, Retry),
    ("alert", 401, b'{"detail":"Invalid or expired API key for this run"}', KEY),
    ("alert", 429, b"", Retry),
    ("put", 500, b"", Retry),
    ("put", 503, b"<Error><Code>SlowDown</Code></Error>", Retry),
    ("put", 403, b"<Error><Code>AccessDenied</Code></Error>", Retry),
    ("put", 400, b"<Error><Code>RequestTimeout</Code></Error>", Retry),
]


@pytest.mark.parametrize(("kind", "status", "body", "meaning"), TABLE)
def test_answer_means(kind: Kind, status: int, body: bytes, meaning: object) -> None:
    """G6: only what certainly was not carried out is `Retry`; what may have been is `Unknown`."""
    outcome = classify(kind, Answer(status=status, body=body))
    if meaning is KEY:
        assert isinstance(outcome, Retry)
        assert outcome.key_problem
    else:
        assert type(outcome) is meaning
        assert not getattr(outcome, "key_problem", False)


BROKEN: list[tuple[Kind, Progress, type]] = [
    *((kind, "unsent", Retry) for kind in ("control", "read", "beat", "metrics", "rows", "presign", "put")),
    ("control", "partly", Retry),
    ("presign", "partly", Retry),
    ("put", "partly", Retry),
    ("metrics", "partly", Unknown),
    ("rows", "partly", Unknown),
    ("control", "sent", Unknown),
    ("beat", "sent", Unknown),
    ("metrics", "sent", Unknown),
    ("rows", "sent", Unknown),
    ("presign", "sent", Unknown),
    ("read", "sent", Retry),
    ("put", "sent", Retry),
]


@pytest.mark.parametrize(("kind", "progress", "meaning"), BROKEN)
def test_broken_exchange_means(kind: Kind, progress: Progress, meaning: type) -> None:
    """G6: ingest acts on lines while it reads, so half a request may have been carried out."""
    assert type(classify_broken(kind, Broken(progress, "why"))) is meaning


def test_only_storage_refusing_is_an_expired_address() -> None:
    assert is_expired(Answer(status=403))
    assert not is_expired(Answer(status=404))


def test_waiting_time_of_the_server_is_passed_on() -> None:
    for kind in ("control", "rows", "presign", "put"):
        outcome = classify(kind, Answer(status=429, after_s=7.0))
        assert isinstance(outcome, Retry)
        assert outcome.after_s == 7.0


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("12", 12.0),
        ("0", 0.0),
        ("-5", 0.0),
        ("Thu, 01 Jan 1970 00:01:40 GMT", 60.0),
        ("Thu, 01 Jan 1970 00:00:10 GMT", 0.0),
        ("soon", None),
        ("nan", None),
        ("inf", None),
        ("", None),
        (None, None),
    ],
)
def test_retry_after_is_seconds_or_a_date(header: str | None, seconds: float | None) -> None:
    assert seconds_until(header, now_s=40.0) == seconds


def test_http_date_without_zone_is_utc() -> None:
    assert epoch_s("Thu, 01 Jan 1970 00:01:40") == 100.0
    assert epoch_s("yesterday") is None


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (ZOD, "runId: Required (HTTP 400)"),
        (b'{"error":"Unauthorized","message":"Key not found"}', "Unauthorized: Key not found (HTTP 400)"),
        (
            b'{"detail":[{"loc":["body","runId"],"msg":"Field required"}]}',
            "body.runId: Field required (HTTP 400)",
        ),
        (b'{"detail":[7]}', "7 (HTTP 400)"),
        (b"plain\n\x1b[31mtext", "plain [31mtext (HTTP 400)"),
        (b"", "HTTP 400"),
        (b"x" * 1000, "x" * 300 + " (HTTP 400)"),
    ],
)
def test_reason_is_the_servers_words_on_one_short_line(body: bytes, text: str) -> None:
    assert explain(Answer(status=400, body=body)) == text
