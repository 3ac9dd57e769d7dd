"""Console capture: what a process prints goes to its terminal as ever, and line by line into its lease.

    text       text becomes records: finished lines, their log type, without secrets
    fd         `fd`: the descriptors 1 and 2, C++ and child output included
    drain      the process of its own that empties the channels of `fd`: pipes, or pseudo-terminals
    capture    which of them runs, for which Run; `auto` and `wrap`: the `write` of Python's own streams

A record is one JSON line without its number and without the participant's prefix; the coordinator adds both,
because only it knows the order of all participants.
"""
