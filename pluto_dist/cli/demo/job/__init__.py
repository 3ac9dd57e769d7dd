"""The demo's programs. Of `pluto_dist` they use the public names only.

train.py        one rank of a data-parallel training; the model of a script with `init`, `log` and `finish`
evaluate.py     an eval beside it, which attaches to the Run
upload.py       ships every checkpoint
profiler.py     measures until it is ended
torchrun.py     starts the ranks, as `torchrun` would, and connects them
network.py, ledger.py    what they share
"""
