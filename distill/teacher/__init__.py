"""The teacher: an engine that answers."""
