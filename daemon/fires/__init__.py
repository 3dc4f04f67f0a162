"""Fires: each due time becomes one row of the ledger and, unless it is skipped, a run."""
