"""Backends, where records go: `local` is the store, `pluto` the server; see `core/values/backend.py`.

`ledger` notes, for both, which artifacts are where.
"""
