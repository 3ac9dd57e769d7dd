"""Chaos: real processes are started, stopped and killed at random, and then everything has to add up.

    schedule    what happens when, from a seed
    cast        who a process is, and what its program does
    ledger      what each process believes that it logged
    actors      the processes that the driver has started, by pidfd
    faults      coordinator, server and disk in trouble
    driver      plays a schedule, then lets everything settle
    oracle      which final statuses the design allows for what really happened
    waivers     what the server calls a defect and the design leaves open
    checks      ledgers, server and oracle against each other
    sides       another play: files and hand-over, as `tests/process/sides_story.py` has it, with gigabytes

`python -m tests.chaos --for 300 [--seed N]`. The schedule follows from the seed; what real processes make of
it does not, so a seed that failed may need several tries.
"""
