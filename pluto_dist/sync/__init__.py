"""Runs that were made without a server, and what could not be delivered, from the store to a server.

    plan        what there is to do, parents first
    sync        one Run after the other
    upload      one Run: created, filled, ended
    delivery    its records, stream by stream; console: its lines in one order
    claim       one sync at a time; how far each Run is stands beside it, see `backend.local.marks`

Everything is in the store folder: no runtime, no spool and no coordinator is needed, so it works on any host
that sees the folder.
"""
