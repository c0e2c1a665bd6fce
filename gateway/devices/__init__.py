"""The node's devices: which there are, what they are, and how a guest is given one. Looks, and changes nothing."""
