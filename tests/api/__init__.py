"""Tests of the HTTP API, against a supervisor and an audit log that are held in memory."""
