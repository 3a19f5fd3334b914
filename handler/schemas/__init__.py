"""What callers send and what they get, as pydantic models. Values only: nothing here does I/O."""
