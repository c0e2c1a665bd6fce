"""Tests of what the gateway does by way of PVE's API, against the simulated one."""
