"""System metrics: what the machine does while a Run is on it.

    sensors    what can be measured, under the official client's names
    gpus       NVIDIA cards, where `nvidia-ml-py` is installed
    recorder   one sample for all Runs of the node, written into a spool stream of each

The core says when and for whom (`core.sampling`); a worker thread of the coordinator measures and writes.
psutil is imported with the first sample, so a node where nothing is sampled never loads it.
"""
