"""Execs from their acceptance to the end of their memory."""
