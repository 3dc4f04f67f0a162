"""Runs: the queue they wait in, the pipeline that each goes through, and how they end."""
