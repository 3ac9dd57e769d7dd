"""The Pluto server as a backend.

backend          what the coordinator calls
opening          finding Runs without changing them, creating them, going on with them
reporting        the final status, read back, and what has changed it
files            uploads in two steps, and how fast they may go
client           the endpoints, and the wire below them
exchange         one request, its answer, and the meaning of that
guard            what must not be sent
"""

from __future__ import annotations

from pluto_dist.backend.pluto.backend import PlutoBackend
from pluto_dist.backend.pluto.client import KeyProvider

__all__ = ["KeyProvider", "PlutoBackend"]
