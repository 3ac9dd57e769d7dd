"""The backend without a server: Runs are kept whole in the store folder.

`backend` is what the coordinator calls, `store` the folder, its layout and how far `sync` has uploaded it,
`files` the logged files in it, `reading` what people read of it.
"""

from pluto_dist.backend.local.backend import LocalBackend

__all__ = ["LocalBackend"]
