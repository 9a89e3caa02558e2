"""What decides how much each subcomponent matters for an input. Imports no torch."""

from dataclasses import dataclass
from typing import Literal

# mlp: one small network a subcomponent, on its inner activation. vector_mlp: one a subcomponent, on the
# site's input. shared_mlp: one network a site, from its input to all its subcomponents.
ImportanceKind = Literal["mlp", "vector_mlp", "shared_mlp"]
# layerwise: each site has its own function. global: one shared_mlp from all sites' inputs to all
# subcomponents.
ImportanceMode = Literal["layerwise", "global"]
SigmoidType = Literal["paper", "leaky_hard", "normal", "hard", "upper_leaky_hard", "swish_hard"]
SamplingType = Literal["continuous", "binomial"]


@dataclass(frozen=True)
class ImportanceFunction:
    """The causal importance functions that a configuration asks for.

    ``hidden_dims``: sizes of the hidden layers, empty for linear functions.
    """

    kind: ImportanceKind = "mlp"
    mode: ImportanceMode = "layerwise"
    hidden_dims: tuple[int, ...] = (16,)
    sigmoid_type: SigmoidType = "paper"
    sampling: SamplingType = "continuous"
