"""Two networks (or more) side by side: weights, activations, features, and what can be decoded."""
