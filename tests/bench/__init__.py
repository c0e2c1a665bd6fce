"""The benchmark: what an exec costs over a bare `lxc-attach`, on real containers. `python -m tests.bench` runs it."""
