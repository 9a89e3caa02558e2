"""The module names of the original APD code and of the SPD paper's code (package ``spd``)."""
