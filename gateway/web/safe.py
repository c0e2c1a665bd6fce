"""What every reply carries for the sake of browsers, whoever made it: the application or the edge."""

SAFE_HEADERS = (
    ("X-Content-Type-Options", "nosniff"),
    ("Cache-Control", "no-store"),
    ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Referrer-Policy", "no-referrer"),
)
"""No Strict-Transport-Security: it would hold for every port of the node's name (RFC 6797, 8.3), not for ours alone."""
