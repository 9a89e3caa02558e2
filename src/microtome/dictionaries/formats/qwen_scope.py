"""Qwen Scope: ``layer{n}.sae.pt`` with ``W_enc [F, d]`` and ``W_dec [d, F]``; TopK of the residual stream.

The number of active features stands in the repository's name only (``SAE-Res-...-W32K-L0_50``).
"""

import re
from pathlib import Path

from microtome.core.errors import CannotLoad
from microtome.dictionaries.config import DictionaryConfig
from microtome.dictionaries.formats.places import layer_of
from microtome.dictionaries.stored import DictionaryFile
from microtome.dictionaries.weights import FeatureRows, TensorWeights, read_pickled

FORMAT = "qwen_scope"
FILE = re.compile(r"layer(\d+)\.sae\.pt")


def open_qwen_scope(file: Path) -> DictionaryFile:
    """Open one file. Raises ``CannotLoad``."""
    where = "/".join(file.absolute().parts[-5:-1])
    named = re.search(r"(?:SAE-Res-(.+?)-W\d+K-)?L0_(\d+)", where)
    if named is None:
        raise CannotLoad(
            f"{file}: Qwen Scope files do not say how many features are active; keep the repository's name"
            " (SAE-Res-...-L0_50) in the path"
        )
    weights = TensorWeights(read_pickled(file), file)
    shape = weights.shape("W_enc")
    if shape is None or len(shape) != 2:
        raise CannotLoad(f"{file}: no W_enc matrix in it; not a file of Qwen Scope")
    config = DictionaryConfig.from_mapping(
        {
            "architecture": "topk",
            "d_in": shape[1],
            "n_features": shape[0],
            "k": int(named[2]),
            "subtract_b_dec": False,
            "site": "resid",
            "layer": layer_of(file.name),
            "hook": file.name,
            "model_name": f"Qwen/{named[1]}" if named[1] else None,
        },
        source=str(file),
    )
    return DictionaryFile(
        config,
        FORMAT,
        file,
        FeatureRows(weights, "W_enc"),
        FeatureRows(weights, "W_dec", transposed=True),
        weights.vector("b_dec"),
        {"b_enc": weights.vector("b_enc")},
    )
