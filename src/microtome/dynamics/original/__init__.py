"""The original analysis, number for number: what it measured, in the files it wrote.

Kept to reproduce published numbers. Its jump test fires on white noise as often as on data, its steps are
indices of measurements, and its phases are a fifth of the true ones; the default analysis has none of this.
"""
