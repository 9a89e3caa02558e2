"""Data of the toy models."""
