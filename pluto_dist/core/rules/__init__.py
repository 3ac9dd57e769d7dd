"""Decisions as pure functions of values, without the coordinator's context.

Roles: `claims`, `kinship` (children of a process with a lease), `seat` (which of several nodes sends a Run's
status). The end of a Run: `verdict`, `states` (legal moves), `joint` with `reports` for several nodes,
and `parts` where there is no server. Names: `series`, `participants`; `together` for all ranks as one. What
is sent: `stream`, `shipment` (files), `changes` (tags, config), `alerts`. What is handed over: `topics`. When
a process talks with its coordinator: `session`.
"""
