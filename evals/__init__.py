"""Measurements: scripts that print a figure beside its target, and the log of what came out."""
