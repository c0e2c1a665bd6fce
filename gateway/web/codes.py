"""What the edge answers by itself, to any request and before any application: its statuses and their codes."""

from types import MappingProxyType

EDGE_CODES = MappingProxyType(
    {
        400: ("malformed_request", "tls_required"),
        408: ("request_timeout",),
        413: ("payload_too_large",),
        414: ("request_line_too_long",),
        417: ("expectation_failed",),
        431: ("headers_too_large",),
        500: ("internal_error",),
        501: ("transfer_coding_unsupported",),
        503: ("overloaded", "gateway_restarting"),
        505: ("http_version_unsupported",),
    }
)
"""The API's description has them at every operation; `refusal.Refusal` knows no others."""
