"""Upload of Runs from the store to a server: local Runs, and records that could not be delivered.

    plan        the Runs to upload, parents of forks first
    sync        one Run after the other
    upload      one Run: claimed by one sync at a time, created, filled, ended
    delivery    its records, from the store to the server: stream by stream, console lines in one order

How far each Run is stands in the store, see `Mark` in `backend.local.store`.

Everything is in the store folder: no runtime, no spool and no coordinator is needed, so it works on any host
that sees the folder.
"""
