"""RING 0, which decides: events and the time in, effects out. No I/O, no clock, no thread, no logger.

`values` are messages, entries, records, events and effects; `rules` decide, as pure functions; `machine` is
the coordinator's state machine. `machine` may import `rules`, and both `values`.
"""
