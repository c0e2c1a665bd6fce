"""The picture of the dashboard in docs/monitoring.md: `python -m tests.dashboard [--minutes 7]` draws it anew.

A gateway in a simulated node of its own is put under load, Debian's Prometheus scrapes it as packaging/prometheus has
it, and what that answers to each panel's own queries is drawn. Needs the packages prometheus and chromium.
"""
