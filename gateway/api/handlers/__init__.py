"""One file per resource: take what was asked, call the domain, reply. No checks and no `try` in here."""
