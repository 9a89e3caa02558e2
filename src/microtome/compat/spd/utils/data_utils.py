"""Was ``spd/utils/data_utils.py``. Batches are ``[instance, batch, feature]`` here."""

from microtome.data.sparse_features import SparseFeatures as SparseFeatureDataset

__all__ = ["SparseFeatureDataset"]
