"""The control interface: `POST /<method of Operator>`, arguments as a JSON object, the result as JSON.

JSON here is Python's: non-finite values are bare tokens.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, is_dataclass
from typing import Any

from .core import Core
from .operator import Operator
from .wire import JSON_TYPE, Request, Response, text_response


def methods() -> frozenset[str]:
    """The operations that can be called."""
    return frozenset(name for name in vars(Operator) if not name.startswith("_"))


def control_answer(operator: Operator) -> Callable[[Core, Request], Response]:
    """A service that answers with the operator's methods."""

    def answer(core: Core, request: Request) -> Response:
        name = request.path.lstrip("/")
        if request.method != "POST" or name not in methods():
            known = ", ".join(sorted(methods()))
            return text_response(f"no operation {request.method} {name!r}; POST one of {known}", 404)
        try:
            result = getattr(operator, name)(**json.loads(request.body or b"{}"))
        except (TypeError, ValueError, KeyError) as fault:
            return text_response(f"{name}: {fault}", 400)
        return Response(200, json.dumps(result, default=_plain).encode(), JSON_TYPE)

    return answer


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")
