"""Was the folder ``important_acts_ftrs``: gradients of a language model's loss."""
