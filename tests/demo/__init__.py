"""The demo: a simulated node on this machine, with the gateway on the loopback, kept in .demo until it is stopped.

Standard library only: `stop` must work where there is no virtual environment any more.
"""
