"""Dictionaries (sparse autoencoders): architectures, file formats, training, evaluation."""
