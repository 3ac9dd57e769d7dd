"""Decisions as pure functions of values, without the coordinator's context.

Roles: `claims` (children of a process with a lease too), `seat` (which of several nodes sends a Run's
status). The end of a Run: `verdict`, `states` (legal moves), and `joint` with `reports` for several nodes.
Names: `series`, `participants`. What is sent: `changes` (tags, config), `alerts`, `topics`, `shipment`
(files). When a process talks with its coordinator: `session`.
"""
