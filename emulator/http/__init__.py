"""HTTP below the routes: bodies, errors, API keys, sockets. Imported by the rest of emulator/.

Exports nothing: the stand-in uses `listener` alone, and must not import the handler.
"""
