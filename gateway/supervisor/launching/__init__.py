"""The way into a container: the nursery, the programs that are launched, and the handshake with them."""
