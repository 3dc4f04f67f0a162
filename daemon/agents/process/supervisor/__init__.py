"""The small processes that own command runs: nursery and supervisor.

They use only the standard library and import nothing else from the package. So they start fast, stay small, and survive
an upgrade of the package while they run. `launcher.py` beside this package is the daemon's side.
"""
