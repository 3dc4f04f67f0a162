"""The version of agentcron: not in `daemon/__init__.py`, because python-daemon, when installed, overwrites that."""

VERSION = "0.1.0"
