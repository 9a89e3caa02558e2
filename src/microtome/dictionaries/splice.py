"""How much of a language model's loss survives when a dictionary's reconstruction takes a site's place."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from microtome.data.text import TokenBatch
from microtome.dictionaries.activations import TokenChoice, counted
from microtome.dictionaries.dictionary import Dictionary
from microtome.hooks import replace
from microtome.targets.language_model import LanguageModel, token_losses

Change = Callable[[Tensor], Tensor]


@torch.no_grad()
def loss_recovered(
    lm: LanguageModel,
    dictionary: Dictionary,
    path: str,
    mean: Float[Tensor, " d"],
    batches: Sequence[TokenBatch],
    choice: TokenChoice | None = None,
    clean: float | None = None,
) -> dict[str, float]:
    """Mean token losses in nats: of the model, spliced, and with the site set to zero and to its mean.

    ``loss_recovered = (zero - spliced) / (zero - clean)``, and the same from the mean. Tokens that do not
    count (padding, and what ``choice`` leaves out) keep their activation.
    """
    dictionary = dictionary.to(lm.device)
    changes: dict[str, Change] = {
        "spliced": lambda x: dictionary(x.float()).to(x.dtype),
        "zero": torch.zeros_like,
        "mean": lambda x: mean.to(x.device, x.dtype).expand_as(x),
    }
    losses = {
        name: mean_loss(lm, batches, path, change, choice or TokenChoice())
        for name, change in changes.items()
    }
    losses["clean"] = mean_loss(lm, batches) if clean is None else clean
    return {
        "loss": losses["clean"],
        "loss_spliced": losses["spliced"],
        "loss_zero": losses["zero"],
        "loss_mean": losses["mean"],
        "loss_recovered": _share(losses, "zero"),
        "loss_recovered_from_mean": _share(losses, "mean"),
    }


def _share(losses: dict[str, float], baseline: str) -> float:
    span = losses[baseline] - losses["clean"]
    # Where ablation costs nothing there is nothing to recover.
    return (losses[baseline] - losses["spliced"]) / span if abs(span) > 1e-9 else float("nan")


@torch.no_grad()
def mean_loss(
    lm: LanguageModel,
    batches: Sequence[TokenBatch],
    path: str | None = None,
    change: Change | None = None,
    choice: TokenChoice | None = None,
) -> float:
    """Mean token loss over all batches, with the output at ``path`` changed on the tokens that count."""
    total, count = 0.0, 0
    for batch in batches:
        mask = counted(batch, choice or TokenChoice())

        def splice(x: Tensor, mask: Tensor = mask) -> Tensor:
            assert change is not None
            return torch.where(mask.to(x.device)[..., None], change(x), x)

        with replace(lm.model, {path: splice} if path is not None and change is not None else {}):
            loss, n_tokens = token_losses(lm, batch.input_ids, batch.attention_mask)
        total, count = total + float(loss), count + n_tokens
    return total / max(count, 1)
