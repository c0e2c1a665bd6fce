"""ROUTES as an OpenAPI 3.1 document: what is served, committed, and generated clients are made of."""

from gateway.api.openapi.document import build_openapi

__all__ = ["build_openapi"]
