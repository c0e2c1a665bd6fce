"""The audit log, from its bytes to a writer whose disk hangs."""
