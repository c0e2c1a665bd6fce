"""Guests through the gateway's API: the simulated node's PVE API, and real containers behind it."""
