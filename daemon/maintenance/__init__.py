"""Periodic maintenance: retention and workspace cleanup."""
