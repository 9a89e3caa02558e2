"""Networks that can be taken apart."""
