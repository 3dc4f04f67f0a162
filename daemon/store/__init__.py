"""The state on disk: one SQLite database, a witness file beside it, and the lock of the one daemon."""
