"""What there is only so much of: places, memory, bytes of the spool, turns."""
