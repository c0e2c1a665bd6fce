"""Who may do what: actions, grants over guests, and the tokens that carry them."""
