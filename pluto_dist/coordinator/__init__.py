"""The coordinator process: the loop around the core, and what it stands on."""
