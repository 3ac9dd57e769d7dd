"""Upload of Runs from the store to a server: local Runs, and records that could not be delivered.

    plan        the Runs to upload, parents of forks first
    sync        one Run after the other
    upload      one Run: created, filled, ended
    source      its records as they lie in the store
    delivery    those records to the server: stream by stream, console lines in one order
    claim       one sync at a time; how far each Run is stands beside it, see `backend.local.marks`

Everything is in the store folder: no runtime, no spool and no coordinator is needed, so it works on any host
that sees the folder.
"""
