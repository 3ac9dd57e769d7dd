"""The coordinator process: the loop around the core, and its parts.

`main` is its life, from lock to exit; `driver` the loop. Local effects: `spools` (lease folders), `watches`
(liveness), `database`. Slow effects: `worker` carries them out, in the threads of `threads`; `reducer`
and `node` belong to single effects.
"""
