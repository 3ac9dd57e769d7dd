"""Hostile and damaged input of every kind, from hypothesis.

Each `test_*.py` here holds properties, marked `@fuzz(...)`: whatever comes in, an error is a typed one, what
is accepted is right, and nobody else is harmed. Pytest plays a modest number of examples; `python -m
tests.fuzz --for SECONDS` plays as many as there is time for.
"""
