"""Reading what a decomposition found: what components fire on, what they pass on to each other, which act
together, and what happens without them."""
