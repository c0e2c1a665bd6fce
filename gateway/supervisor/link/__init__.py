"""The socket between web and supervisor: its frames, and the side that asks."""
