"""Matryoshka dictionaries: nested prefixes that each reconstruct (Bussmann et al. 2025, arXiv 2503.17547).

They encode as BatchTopK dictionaries do.
"""

from microtome.dictionaries.batch_topk import BatchTopKDictionary


class MatryoshkaDictionary(BatchTopKDictionary):
    """A BatchTopK dictionary whose first ``prefixes[i]`` features are a dictionary of their own."""
