"""The gateway's figures as Prometheus reads them."""
