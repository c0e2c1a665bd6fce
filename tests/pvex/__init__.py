"""pvex, the command-line client, against a real gateway."""
