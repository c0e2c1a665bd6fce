"""Tests of actions, grants and tokens, on real files."""
