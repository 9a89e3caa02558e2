"""Training runs over time: record them, find when representations change, compare before with after."""
