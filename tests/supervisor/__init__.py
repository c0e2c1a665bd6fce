"""The supervisor's parts on their own: no gateway, no container."""
