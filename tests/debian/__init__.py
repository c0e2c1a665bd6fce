"""The Debian package's proof: built twice in a Debian 13, installed with apt into another that systemd runs.

`python -m tests.debian` does all of it; `--keep DIRECTORY` leaves the packages there.
"""
