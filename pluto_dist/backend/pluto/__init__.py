"""The Pluto server as a backend.

backend     what the coordinator calls
lookup      finding Runs without changing them
opening     creating Runs and going on with them
files       uploads in two steps
client      the endpoints, and their answers as values
exchange    one request and what its answer means
guard       what must not be sent
http        the wire
"""

from __future__ import annotations

from pluto_dist.backend.pluto.backend import PlutoBackend
from pluto_dist.backend.pluto.client import KeyProvider
from pluto_dist.backend.pluto.files import MemoryUrlBook, Slot, UrlBook

__all__ = [
    "KeyProvider",
    "MemoryUrlBook",
    "PlutoBackend",
    "Slot",
    "UrlBook",
]
