"""Before and after adaptation: how far each layer moves, and what the networks get right afterwards."""
