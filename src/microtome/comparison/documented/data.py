"""The images of one SVRT problem as the original script loaded them."""

from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from microtome.data.image_sources import open_images
from microtome.data.labelled_images import LabelledImages


class _Rows(Dataset[dict[str, Tensor]]):
    def __init__(self, images: LabelledImages) -> None:
        self.images = images
        self.label = torch.as_tensor(next(iter(images.labels.values())).values)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"image": self.images.inputs(slice(index, index + 1))[0], "label": self.label[index]}


def load_data(
    data_dir: str | Path, problem_number: int, batch_size: int = 32, num_workers: int = 0, split: str = "test"
) -> DataLoader[dict[str, Tensor]]:
    """Batches ``{"image": [B, 3, 128, 128] in [-1, 1], "label": [B]}`` of a problem, in sorted order.

    Sorted files come class by class: networks whose batch norms have no running statistics then see the class
    in the batch. ``microtome compare`` freezes those statistics first. Raises ``MicrotomeError``.
    """
    images = open_images(str(data_dir), problem=problem_number, split=split, size=128, channels=3)
    return DataLoader(_Rows(images), batch_size=batch_size, num_workers=num_workers)
