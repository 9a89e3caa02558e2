"""C kernels for the hot loops, each beside an equal in PyTorch."""
