"""Models that hold components."""
