"""`python -m gateway` is the command `pve-exec-gateway`."""

from gateway.cli import main

if __name__ == "__main__":
    main()
