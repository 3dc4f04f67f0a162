"""The client that stands before an agent of type acp, as a program of its own: standard library only."""
