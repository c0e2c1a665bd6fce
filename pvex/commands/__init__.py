"""The commands of pvex, a module for each of their groups."""
