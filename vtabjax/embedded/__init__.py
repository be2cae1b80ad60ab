"""Weights that ship with the project, and what made them."""
