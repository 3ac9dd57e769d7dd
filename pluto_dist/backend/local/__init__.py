"""The backend without a server: Runs are kept whole in the store folder.

`backend` is what the coordinator calls, `store` the folder and its layout, `files` the logged files in it,
`reading` what people read of it, `marks` how far `sync` has uploaded a Run.
"""

from pluto_dist.backend.local.backend import LocalBackend

__all__ = ["LocalBackend"]
