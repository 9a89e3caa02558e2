"""Gradients: which layer activations and dictionary features move a language model's loss."""
