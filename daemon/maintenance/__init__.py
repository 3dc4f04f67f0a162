"""Periodic maintenance: retention of history and cleanup of workspaces."""
