"""What must hold for long or under stress, each written once: small in the test suite, at full size by `make soak`.

A scenario takes a running gateway and its size, fails by an AssertionError that says what did not hold, and gives the
figures that it saw.
"""
