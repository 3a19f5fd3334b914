"""The stand-in's HTTP and websocket side."""
