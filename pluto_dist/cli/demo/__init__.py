"""`pluto-dist demo`: a real training on this machine, watched, disturbed and accounted for.

`job/` holds the programs, as users would write them; the other modules start, watch and check them.
"""
