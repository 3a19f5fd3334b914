"""The stand-in's nodes, a module for each family."""
