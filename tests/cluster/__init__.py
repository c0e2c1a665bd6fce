"""A stand-in for pmxcfs: a real FUSE file system with its traps, mounted once for each node of a cluster."""
