"""The HTTP API: one table of routes, one way that a request takes, thin handlers."""
