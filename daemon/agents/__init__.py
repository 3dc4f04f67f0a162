"""Agent types: each one does the work of a run in its own way; `base.py` holds what they share."""
