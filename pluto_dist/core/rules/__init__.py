"""Decisions as pure functions of values, without the coordinator's context.

Roles: `claims` (children of a process with a lease too). The end of a Run: `verdict`, `states` (legal moves),
and `nodes` for several nodes (verdict, and the seat that sends it).
Names: `series`, `participants`. What is sent: `changes` (tags, config), `alerts`, `topics`, `shipment`
(files). When a process talks with its coordinator: `session`.
"""
