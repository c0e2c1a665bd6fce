"""The pure domain of an exec: what is asked, what is run, how it ended. No I/O here."""
