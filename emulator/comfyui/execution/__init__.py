"""The stand-in's queue, validation and execution of prompts."""
