"""One function that opens images from anywhere."""

from microtome.data.labelled_images import LabelledImages


def open_images(
    source: str,
    *,
    problem: int | str | None = None,
    split: str = "test",
    size: int | None = None,
    channels: int | None = None,
    limit: int | None = None,
) -> LabelledImages:
    """The images of ``source``, in an order that does not depend on the file system.

    ``digits``; ``svrt:DIR`` (``problem`` or ``#n``); ``folder:DIR``; an ``.npz``, idx, ``.h5`` or ``.zip``
    file; ``omniglot:DIR``; ``same-different#7``. ``split`` is taken where the source has one. Images are
    resized to ``size`` and turned to ``channels`` (1 or 3). ``limit`` takes that many, balanced over classes.
    Raises ``MicrotomeError`` in one line.
    """
    raise NotImplementedError
