"""Property fuzzing of the whole spec against a live gateway: a slice in the test suite, all of it by `make fuzz`."""
