"""Decisions as pure functions of values. Nothing here sees the coordinator's context."""
