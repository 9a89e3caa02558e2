"""Old script names."""
