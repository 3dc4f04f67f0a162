"""The small processes that own command runs: nursery and supervisor.

They use the standard library only and import nothing of the package, so that they start fast, stay small, and go on
unharmed while the package is upgraded beneath them. `launcher.py` beside this package is the daemon's side.
"""
