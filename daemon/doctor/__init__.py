"""The checks of `agentcron doctor`: one file for each part of an installation."""
