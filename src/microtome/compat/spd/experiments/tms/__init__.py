"""Toy Models of Superposition."""
