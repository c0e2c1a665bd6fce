"""What is remembered of execs on disk."""
