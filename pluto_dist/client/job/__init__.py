"""Which job a process belongs to: its launcher, its rank, its ancestors (R4, R12)."""
