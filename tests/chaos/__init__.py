"""Faults against a loaded gateway: what it answered meanwhile was true, and it recovers by itself (`make chaos`)."""
