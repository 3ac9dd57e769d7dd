"""This machine: settings, places, processes. Used by the trainer and by the coordinator."""
