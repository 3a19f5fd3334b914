"""HTTP below the routes: bodies, errors, responses, API keys, header time-out. For the rest of the API, not for the stand-in."""
