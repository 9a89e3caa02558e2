"""Decompositions that the original codes wrote: APD's, the SPD paper's, and the later SPD code's."""
