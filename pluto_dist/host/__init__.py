"""This machine, for the trainer and for the coordinator.

Settings: `settings`, `setting_kinds`, `credentials`. Folders: `places`, `filesystems`, `private_files`.
Processes: `identity`, `liveness`, `lease_lock`, `cgroup`. The start of a coordinator: `launch`, `spawn`,
`boot`.
"""
