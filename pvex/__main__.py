"""`python -m pvex`."""

from pvex.cli import main

main(prog_name="pvex")
