"""Salvage: saving work that exists only in a workspace."""
