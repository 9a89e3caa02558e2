"""Microtome: a workbench that takes neural networks apart."""

__version__ = "0.1.0"
