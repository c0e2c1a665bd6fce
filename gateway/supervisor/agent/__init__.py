"""Virtual machines by their guest agent: commands, files, and what it can be asked."""
