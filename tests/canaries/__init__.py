"""Canaries: words that stand for secrets, sent wherever one can be, and looked for wherever one must not be."""
