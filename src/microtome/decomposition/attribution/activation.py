"""Activation attributions: the size of what each component writes."""

from jaxtyping import Float
from torch import Tensor


def activation_attributions(component_outputs: dict[str, Float[Tensor, "K B C _"]]) -> Float[Tensor, "K B C"]:
    """``A_c = sum_l ||pre_l P_{c,l}||^2``, from the pass with all components on (original APD code)."""
    sizes = [acts.square().sum(dim=-1) for acts in component_outputs.values()]
    total = sizes[0]
    for size in sizes[1:]:
        total = total + size
    return total
