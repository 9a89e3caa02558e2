"""Pure functions of arrays: what was found, how much of it is used, how well it works."""
