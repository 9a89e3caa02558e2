"""Record and replace the activations of any module."""
