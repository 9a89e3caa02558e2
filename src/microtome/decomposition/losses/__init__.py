"""One loss a file: pure functions of tensors that return one value per instance."""
