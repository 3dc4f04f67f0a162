"""The program that talks to an agent of type acp: a separate process that uses only the standard library."""
