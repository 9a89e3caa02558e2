"""Same-different problems: images of a few outlines, of two classes that only a relation tells apart."""

from microtome.data.same_different.images import image, same_different_images
from microtome.data.same_different.problems import PROBLEMS, Problem

__all__ = ["PROBLEMS", "Problem", "image", "same_different_images"]
