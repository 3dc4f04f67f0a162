"""Fires: each due time becomes one ledger row, and perhaps a run."""
