"""A command's streams: read, kept, counted, followed, fed."""
