"""Node policy: what may be given to guests of this node at all, whoever asks."""
