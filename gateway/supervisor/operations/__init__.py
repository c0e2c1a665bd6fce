"""The supervisor's side of its socket: who may speak, and what can be asked for."""
