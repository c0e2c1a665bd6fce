"""The HTTP edge: sockets, TLS, deadlines and threads between a client and the WSGI application."""
