"""A strict emulator of the Pluto server, for tests and benchmarks on loopback.

It answers as the real server does where that is known (a recording of 164 exchanges is replayed against it),
keeps the same state, reports what the real server would swallow as *client defects*, and fails on demand.

    with PlutoServer() as server:                       # in this process
        env = server.env()                              # PLUTO_API_KEY and PLUTO_URL_* for a client
        server.operator.add_fault(kind="status", service="ingest", status=503, count=3)
        ...
        assert server.operator.check() == []            # no client defects

    with ServerProcess() as server:                     # as a process of its own
        server.control.advance(151)                     # the same operations over HTTP

Layers, imports point down:

    server, client      the running thing, and how another process holds it
    front, control      HTTP: sockets, faults, the journal; the operator's interface
    operator            what a test may ask and change
    api*, ingest*, files, storage, py_service           the four services: a request in, a response out
    audit*, monitor     rules that look at the state: client defects, the stale-run monitor
    state, runs, metrics, rows, objects, tenants        the state; no sockets, its clock is injected
    wire, zod, jsontext, sqids, clock, defects, faults, journal
"""
