"""Guests as the node shows them: which run, which run of them is the present one."""
