"""Decisions as pure functions: no I/O, and the time is always an argument."""
