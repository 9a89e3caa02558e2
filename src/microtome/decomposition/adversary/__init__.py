"""Adversaries: the masks under which a decomposition reconstructs worst, found by gradient ascent."""
