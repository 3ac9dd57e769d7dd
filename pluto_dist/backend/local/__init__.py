"""The backend that needs no server: Runs end up whole in the store folder."""

from pluto_dist.backend.local.backend import LocalBackend

__all__ = ["LocalBackend"]
