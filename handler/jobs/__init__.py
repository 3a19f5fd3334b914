"""The steps of a job, each in a module of its own. pipeline.py puts them in order."""
