"""The command line: one small file a noun. Modules import nothing heavy before a command needs it."""
