"""The Pluto server as a backend.

backend                                what the coordinator calls
lookup                                 finding Runs without changing them
reporting                              how Runs end, read back
opening, refusal, reopened, replies    creating Runs and going on with them
files, upload, pace                    uploads in two steps
client                                 the endpoints
classify                               what an answer means
guard, lines                           what must not be sent
http, exchange                         the wire and its values
"""

from __future__ import annotations

from pluto_dist.backend.pluto.backend import PlutoBackend
from pluto_dist.backend.pluto.client import KeyProvider

__all__ = [
    "KeyProvider",
    "PlutoBackend",
]
