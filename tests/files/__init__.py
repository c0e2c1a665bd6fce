"""Files in guests, on real containers."""
