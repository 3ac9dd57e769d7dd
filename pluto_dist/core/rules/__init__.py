"""Decisions as pure functions of values, without the coordinator's context.

Roles: `claims` (of children of a process with a lease, too). The end of a Run: `verdict`, `states` (legal
moves), `nodes` for several nodes (verdict, and the seat that sends it), and `parts` where there is no server.
Names: `series`, `participants`; `together` for all ranks as one. What is sent: `shipment` (files), `changes`
(tags, config), `alerts`. What is handed over: `topics`. When a process talks with its coordinator: `session`.
"""
