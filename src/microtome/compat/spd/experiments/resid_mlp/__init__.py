"""Residual MLPs."""
