"""Containers: what pve-container does with them. Behind each configuration stands a real LXC container of the node."""
