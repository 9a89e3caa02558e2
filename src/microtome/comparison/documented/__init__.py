"""The functions of the original weight-space tools, with their signatures and what they return."""
