"""Packages, custom nodes and models that an image or a start installs."""
