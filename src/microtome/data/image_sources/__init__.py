"""Images from wherever they are kept: one file a format, and one function that opens any of them."""

from microtome.data.image_sources.opening import open_images

__all__ = ["open_images"]
