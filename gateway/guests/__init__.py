"""Guests as the API changes and shows them: under a grant, on record, answered with outcomes instead of task ids."""
