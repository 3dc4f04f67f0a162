"""The config file: its schema, how it is found and read, and what is said about mistakes in it."""
