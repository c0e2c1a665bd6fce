"""What a correct exec is, written once and held by every driver, over every way in.

| word | meaning |
|---|---|
| driver | how commands reach a guest: `liblxc`, `lxc-attach`, `pct`, the QEMU guest agent (`drivers.py`) |
| way | how a client asks for an exec and gets what it did: JSON, NDJSON, SSE, WebSocket, detached (`ways.py`) |
| ability | what a request may ask for and a driver may lack; lacking it, a driver refuses by name and runs nothing |

A test names the abilities that it needs, and runs over every pair of driver and way that has them. Every pair that
lacks one is in `test_refusals.py`: so nothing is skipped, and no driver can say less than it does.
"""
