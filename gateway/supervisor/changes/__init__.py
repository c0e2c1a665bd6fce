"""What the supervisor changes of guests as root: by pvesh, and by pausing them."""
