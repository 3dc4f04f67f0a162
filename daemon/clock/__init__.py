"""The alarm for the next due time, and the watch for wall-clock steps."""
