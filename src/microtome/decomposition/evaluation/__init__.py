"""What a decomposition is worth: measurements over batches, and a verdict of named checks."""
