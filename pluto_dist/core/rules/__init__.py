"""Decisions as pure functions of values, without the coordinator's context.

Roles: `claims`, `kinship` (children of a process with a lease), `seat` (which of several nodes sends a Run's
status). The end of a Run: `verdict`, `states` (legal moves), and `joint` with `reports` for several nodes.
Names: `series`, `participants`. What is sent: `stream`, `changes` (tags, config), `topics`.
When a process talks with its coordinator: `session`.
"""
