"""The endpoint: payments over HTTP, and the histories it remembers between them."""
