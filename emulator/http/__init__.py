"""HTTP beneath the routes: bodies, errors, API keys, listening sockets."""
