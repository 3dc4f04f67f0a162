"""Decisions as pure functions: no I/O, and time is always an argument."""
