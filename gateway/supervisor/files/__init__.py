"""Sessions of files: in running and stopped containers, and in virtual machines."""
