"""Agents that run as a supervised process on this host."""
