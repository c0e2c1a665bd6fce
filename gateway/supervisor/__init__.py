"""The process that owns every command: it starts them, watches them, ends them whole, and remembers how they ended."""
