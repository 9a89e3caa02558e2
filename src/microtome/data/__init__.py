"""Inputs: synthetic sparse features, real images, arrays of your own."""
