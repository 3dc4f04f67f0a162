"""Agents: what does the work of a run. Each kind is one file; what they share is in `base.py`."""
