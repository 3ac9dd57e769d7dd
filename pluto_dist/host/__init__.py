"""This machine, for the trainer and for the coordinator.

Settings: `settings`, `setting_kinds`, `credentials`. Folders and the filesystems they are on: `places`.
Processes: `identity`, `liveness`. The start of a coordinator: `launch`, and `spawn` and `boot`, which are run
as scripts.
"""
