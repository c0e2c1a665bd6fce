"""What requests and replies look like on the wire, one file per resource."""
