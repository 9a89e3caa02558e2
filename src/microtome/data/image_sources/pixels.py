"""Images as one tensor of pixels: decoded, of one size, with one or three channels."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Shaped, UInt8
from torch import Tensor

from microtome.core.errors import CannotLoad, bad_value
from microtome.data.image_sources.files import Files

if TYPE_CHECKING:
    from PIL import Image

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow's


def check_request(size: int | None, channels: int | None) -> None:
    """Raises ``MicrotomeError`` for a size or a number of channels that no image can have."""
    if size is not None and not 1 <= size <= 4096:
        raise bad_value("size", size, "not a width of images", "use 1 to 4096 pixels")
    if channels not in (None, 1, 3):
        raise bad_value("channels", channels, "images have 1 channel (grey) or 3 (RGB)", "use 1 or 3")


def decode(
    files: Files, names: Sequence[str], size: int | None, channels: int | None
) -> UInt8[Tensor, "N C H W"]:
    """The images called ``names``, resized to ``size`` squared by bilinear interpolation with antialiasing.

    Without ``size`` all have to be of one size; without ``channels`` there are three as soon as one image is
    coloured. Raises ``CannotLoad`` in one line, naming the file that is no image.
    """
    images = [_decode_one(files, name, size, channels) for name in names]
    sizes = sorted({image.shape[:2] for image in images})
    if len(sizes) > 1:
        shown = ", ".join(f"{width}x{height}" for height, width in sizes[:4])
        raise CannotLoad(
            f"{files}: images of {len(sizes)} sizes ({shown}); give one size for all with --image-size 128"
        )
    coloured = any(image.ndim == 3 for image in images)
    height, width = sizes[0]
    pixels = np.empty((len(images), 3 if coloured else 1, height, width), np.uint8)
    for i, image in enumerate(images):
        pixels[i] = image.transpose(2, 0, 1) if image.ndim == 3 else image
    return torch.from_numpy(pixels)


def _decode_one(
    files: Files, name: str, size: int | None, channels: int | None
) -> Shaped[np.ndarray, "H W *c"]:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(files.read(name))) as image:
            image.load()
            plain = _plain(image, channels)
            if size is not None and plain.size != (size, size):
                plain = plain.resize((size, size), Image.Resampling.BILINEAR)
            return np.asarray(plain, np.uint8)
    except CannotLoad:
        raise
    except Exception as error:  # Pillow raises a dozen kinds for broken files
        raise CannotLoad(
            f"{files}: {name} is not an image that can be read ({type(error).__name__}); remove it"
        ) from None


def _plain(image: "Image.Image", channels: int | None) -> "Image.Image":
    """The image as 8-bit grey or RGB, transparency put on white."""
    from PIL import Image

    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image, np.float64)
        top = 65535 if values.max(initial=0) > 255 else 255
        image = Image.fromarray((values * (255 / top)).round().clip(0, 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image).convert("RGB")
    grey = image.mode in ("1", "L")
    if channels is None:
        return image.convert("L" if grey else "RGB")
    return image.convert("L" if channels == 1 else "RGB")


def as_pixels(array: Shaped[np.ndarray, "..."], source: str) -> Shaped[Tensor, "N C H W"]:
    """Arrays ``[N, H, W]``, ``[N, H, W, 1 or 3]`` or ``[N, 1 or 3, H, W]`` as ``[N, C, H, W]``.

    Floats in [0, 1] stay floats; integers and floats up to 255 become eight-bit. Raises ``CannotLoad``.
    """
    if array.ndim == 3:
        array = array[:, None]
    elif array.ndim == 4 and array.shape[-1] in (1, 3) and array.shape[1] not in (1, 3):
        array = array.transpose(0, 3, 1, 2)
    if array.ndim != 4 or array.shape[1] not in (1, 3) or array.dtype.kind not in "uifb":
        raise CannotLoad(
            f"{source}: an array of shape {list(array.shape)} and type {array.dtype} is no set of images;"
            " store [N, H, W], [N, H, W, 3] or [N, 3, H, W] numbers"
        )
    if array.dtype == np.uint8:
        return torch.from_numpy(np.ascontiguousarray(array))
    values = array.astype(np.float32)
    if not np.isfinite(values).all():
        raise CannotLoad(f"{source}: NaN or infinity in the images; clean the data first")
    low, high = float(values.min(initial=0)), float(values.max(initial=0))
    if low < 0 or high > 255:
        raise CannotLoad(f"{source}: values from {low:g} to {high:g}; store 0 to 255, or floats 0 to 1")
    if array.dtype.kind == "f" and high <= 1:
        return torch.from_numpy(np.ascontiguousarray(values))
    if array.dtype.kind == "b":
        values = values * 255
    return torch.from_numpy(values.round().astype(np.uint8))


def resize(
    pixels: Shaped[Tensor, "N C H W"], size: int | None, channels: int | None
) -> Shaped[Tensor, "N c h w"]:
    """Pixels resized to ``size`` squared (bilinear, antialiased) and turned to ``channels``; same type."""
    made = pixels
    if channels == 1 and made.shape[1] == 3:
        luma = torch.tensor(_LUMA).reshape(1, 3, 1, 1)
        made = (made.float() * luma).sum(1, keepdim=True)
    if size is not None and tuple(made.shape[-2:]) != (size, size):
        made = F.interpolate(made.float(), (size, size), mode="bilinear", antialias=True)
    if made.dtype != pixels.dtype:
        made = made.round().clamp(0, 255).to(torch.uint8) if pixels.dtype == torch.uint8 else made
    return made.expand(-1, 3, -1, -1).contiguous() if channels == 3 and made.shape[1] == 1 else made
