"""What a decomposition found, figure by figure: computing here, drawing in ``decomposition.plots``."""
