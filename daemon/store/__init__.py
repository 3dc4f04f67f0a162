"""The state on disk: one SQLite database, a witness beside it, and the lock that one daemon holds."""
