"""Decisions as pure functions of values, without the coordinator's context.

Who may do what: `claims` (roles), `kinship` (children of a process with a lease), `seat` (which of several
nodes speaks for a Run). How a Run ends: `verdict`, and `joint` with `reports` and `offsets` for several
nodes. What a series is called: `series`, `participants`. What is sent: `stream`, `shared` (tags, config).
When a process talks to its coordinator: `session`.
"""
