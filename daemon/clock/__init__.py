"""The alarm for the next due time, and the watch for steps of the wall clock."""
