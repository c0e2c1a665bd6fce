"""What ACCEPTANCE.md says of POST /exec, against the whole gateway and real containers; runs inside a node."""
