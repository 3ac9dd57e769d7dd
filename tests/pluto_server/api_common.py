"""What several control routes share."""

from urllib.parse import quote

from .core import Core
from .jsontext import Json, JsonObject, parse
from .runs import Run
from .sqids import encode
from .state import APP_URL
from .tenants import Key
from .wire import INTERNAL, RUN_NOT_FOUND, RefusalError, Response, error, json_response
from .zod import Check, array, string

SUCCESS = json_response({"success": True})
TAGS: Check = array(string(), at_most=50, message="A run can have at most 50 tags")


def whole(number: Json) -> int:
    """A JSON number as a 64-bit id; the server fails on anything else."""
    if number != int(number) or abs(number) >= 2**63:
        raise RefusalError(INTERNAL)
    return int(number)


def find_run(core: Core, key: Key, run_id: Json) -> Run:
    """The caller's run. Call under the lock."""
    run = core.state.book.run(key.organization.id, whole(run_id))
    if run is None:
        raise RefusalError(RUN_NOT_FOUND)
    return run


def refuse_two_groups(tags: list[str]) -> None:
    """At most one tag of a run names its group."""
    if sum(tag.startswith("group:") for tag in tags) > 1:
        raise RefusalError(error(400, "A run can have at most one group:* tag."))


def decode(text: str | None, refusal: Response) -> Json:
    """A JSON document in a string; absent, empty and null are None."""
    if not text:
        return None
    try:
        return parse(text)
    except ValueError:
        raise RefusalError(refusal) from None


def run_answer(key: Key, run: Run, *, resumed: bool) -> JsonObject:
    """The body that create and resume have in common."""
    slug = key.organization.slug
    project = quote(run.project.name, safe="")
    return {
        "runId": run.id,
        "number": run.number,
        "displayId": run.display_id,
        "projectName": run.project.name,
        "organizationSlug": slug,
        "url": f"{APP_URL}/o/{slug}/projects/{project}/{encode(run.id)}",
        "resumed": resumed,
    }
