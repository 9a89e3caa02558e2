"""Training and decomposition scripts by experiment."""
