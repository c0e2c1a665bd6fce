"""What the supervisor asks of the kernel: events, children, signals, cgroups, /proc, another image of itself."""
