"""Examples of the API's description: `story` is told to a real gateway, `recorder` keeps what was said.

What stands in gateway/api/openapi/recorded was answered so by a gateway with a simulated PVE API and real containers.
`make examples` tells the story anew; tests/guests/test_examples.py does, too, and compares.
"""
