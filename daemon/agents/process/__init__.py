"""Agents that run as supervised processes on this host."""
