"""The demo: a simulated node and the gateway on this machine's loopback, kept in .demo until it is stopped."""
