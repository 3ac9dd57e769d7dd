"""`pluto-dist demo`: a real training on this machine, watched, disturbed and accounted for.

`job/` holds the programs, as users would write them; `play` starts, disturbs and shows them, `command`
accounts for what they have logged.
"""
