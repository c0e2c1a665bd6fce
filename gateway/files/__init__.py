"""Files in guests as the web drives them: the wire of the launcher's file mode, and what is said over it."""
