"""Pictures inside a page: read, shrunk until all fit, and written as data URIs."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from microtome.core.errors import bad_value

DOTS_PER_INCH = 150


@dataclass(frozen=True)
class PageImage:
    """An encoded picture and its size in pixels."""

    content: bytes
    kind: str
    width: int
    height: int

    def data_uri(self) -> str:
        """The picture as text, for an ``img`` element."""
        return f"data:image/{self.kind};base64,{base64.b64encode(self.content).decode('ascii')}"


def load_image(picture: str | Path | Figure) -> PageImage:
    """A PNG or JPEG file, or a figure drawn at 150 dots an inch; ``MicrotomeError`` when it is neither."""
    if isinstance(picture, Figure):
        buffer = io.BytesIO()
        picture.savefig(buffer, format="png", dpi=DOTS_PER_INCH)
        content = buffer.getvalue()
    else:
        try:
            content = Path(picture).read_bytes()
        except OSError as error:
            raise bad_value(
                "picture", str(picture), f"cannot be read ({error.strerror})", "draw it first"
            ) from None
    try:
        with Image.open(io.BytesIO(content)) as image:
            kind, (width, height) = (image.format or "").lower(), image.size
            image.verify()
    except Exception:
        kind, width, height = "", 0, 0
    if kind not in ("png", "jpeg"):
        raise bad_value("picture", str(picture), "is no PNG or JPEG picture", "give one of those")
    return PageImage(content, kind, width, height)


def fit_images(images: Sequence[PageImage], max_bytes: int) -> list[PageImage]:
    """The pictures, so that their data URIs together stay below ``max_bytes`` where that is possible.

    The largest lose first: to 256 colours, which figures hardly show, then pixels (not below 400 wide).
    """
    fitted = list(images)
    for shrink in (_fewer_colours, _half_size, _half_size):
        for index in sorted(range(len(fitted)), key=lambda i: -len(fitted[i].content)):
            if sum(len(image.content) for image in fitted) * 4 / 3 <= max_bytes:
                return fitted
            smaller = shrink(fitted[index])
            if len(smaller.content) < len(fitted[index].content):
                fitted[index] = smaller
    return fitted


def _fewer_colours(image: PageImage) -> PageImage:
    with Image.open(io.BytesIO(image.content)) as opened:
        return _encode(opened.convert("RGB").quantize(256, method=Image.Quantize.MEDIANCUT))


def _half_size(image: PageImage) -> PageImage:
    if image.width < 800:
        return image
    with Image.open(io.BytesIO(image.content)) as opened:
        small = opened.convert("RGB").resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS)
        return _encode(small.quantize(256, method=Image.Quantize.MEDIANCUT))


def _encode(image: Image.Image) -> PageImage:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return PageImage(buffer.getvalue(), "png", *image.size)
