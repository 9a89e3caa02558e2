"""BatchTopK dictionaries: on average k features an input, the largest of a whole batch.

Bussmann et al. 2024, arXiv 2412.06410. Single inputs are encoded with the threshold that training estimated.
"""

from microtome.dictionaries.dictionary import Dictionary
from microtome.dictionaries.jumprelu import jumprelu_candidates


class BatchTopKDictionary(Dictionary):
    """``f = relu(z) * (z > threshold)``, ``z = W_enc (x - b_dec) + b_enc``."""

    vectors = ("b_enc", "threshold")
    candidates = staticmethod(jumprelu_candidates)
