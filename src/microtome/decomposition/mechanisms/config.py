"""Settings of ``microtome decompose examples|attributions|cluster|ablate``. Imports no torch."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, field_validator

from microtome.core.config import Config, Probability

Threshold = Annotated[float, Field(ge=0, lt=1)]


class ReadingConfig(Config):
    """What every way of reading a decomposition shares."""

    sites: tuple[str, ...] = ("*",)
    """Shell-style patterns of the sites to look at."""
    instance: NonNegativeInt = 0
    """Which of the run's networks or seeds."""
    n_batches: PositiveInt = 50
    """Batches of inputs to look at."""
    batch_size: PositiveInt | None = None
    """Inputs in a batch; null: 16 windows of text, 256 of anything else."""
    threshold: Threshold = 0.1
    """A component fires where its causal importance exceeds this."""
    seed: int = 0
    """Of the inputs, and of what is drawn at random."""
    device: str = "auto"
    """auto, cpu, cuda, ..."""


class ExamplesConfig(ReadingConfig):
    """Collects what every component fires on: examples at every strength, and the tokens it goes with."""

    strata: tuple[Threshold, ...] = (0.1, 0.4, 0.7, 0.95)
    """Lower ends of the ranges of causal importance that examples are drawn from, each by itself, so that
    weak activations show too."""
    examples_per_stratum: PositiveInt = 6
    """Examples kept of every component in every range, a uniform sample."""
    tokens_before: NonNegativeInt = 16
    """Context of an example before its token."""
    tokens_after: NonNegativeInt = 8
    """Context after it."""
    n_tokens: PositiveInt = 12
    """Length of the lists of tokens."""
    min_count: PositiveInt = 5
    """Tokens seen less often are in no list."""
    n_predictions: PositiveInt = 8
    """Likeliest next tokens of every prediction that count as predicted, with their probability."""
    coactivations: bool = True
    """Count which components fire together."""
    page: bool = True
    """Write examples.html."""
    page_megabytes: Annotated[float, Field(gt=0)] = 20.0
    """Largest size of that page; the components that matter most come first."""

    @field_validator("strata")
    @classmethod
    def _rising(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not value or list(value) != sorted(set(value)):
            raise ValueError("must be rising; give lower ends such as 0.1 0.4 0.7")
        return value


class AttributionsConfig(ReadingConfig):
    """Measures what every component passes on to every later one: gradient times activation."""

    masks: Literal["all", "ci"] = "all"
    """all: every component is fully on; ci: weighed by its causal importance."""
    paths: Literal["direct", "all"] = "direct"
    """direct: between two components, not through a third; all: every path."""
    delta: bool | None = None
    """Whether the part of the weights that the components leave out runs beside them; null: where the
    decomposition was trained with it."""
    output: bool = True
    """Attribute the network's output too: every output, or of text the logit of the likeliest next token."""
    at_once: PositiveInt = 32
    """Components that one backward pass is for."""
    n_edges: PositiveInt = 2000
    """Strongest edges in the table."""
    n_drawn: PositiveInt = 60
    """Strongest edges in the picture."""
    prompt: str | None = None
    """A text to draw the graph of, token by token."""
    prompt_edges: PositiveInt = 400
    """Strongest edges in such a graph."""


class ClusterConfig(ReadingConfig):
    """Merges components that fire together, as long as that makes them shorter to describe."""

    n_rows: PositiveInt = 8192
    """Inputs (tokens) that are clustered: a uniform sample of those seen."""
    alpha: Annotated[float, Field(ge=0)] = 1.0
    """Bits that sending one component's weights costs, against the bits that naming a cluster costs."""
    method: Literal["greedy", "stochastic"] = "greedy"
    """greedy: always the best merge; stochastic: drawn by softmax of minus the costs."""
    temperature: Annotated[float, Field(gt=0)] = 0.01
    """Of the softmax, in bits an input."""
    n_runs: PositiveInt = 1
    """Stochastic mergings with seeds one after another, and the distances between what they find."""
    n_shuffled: NonNegativeInt = 1
    """Times that firings are shuffled among inputs and clustered again: what merging saves by chance."""
    min_density: Probability = 0.0
    """Components that fire on a smaller share of the inputs are left out, as are those that never fire."""
    n_drawn: PositiveInt = 12
    """Largest clusters that are told."""


class AblateConfig(ReadingConfig):
    """Measures what the loss does without chosen components, and with nothing but them."""

    components: tuple[str, ...] = ()
    """Which: site:number, such as layers.0.mlp_in:3; several with commas; site:* is all of a site."""
    cluster: NonNegativeInt | None = None
    """Number of a cluster that `decompose cluster` found in this run, in place of components."""
    masks: Literal["all", "ci"] = "all"
    """How the other components run: all fully on, or weighed by their causal importance."""
    n_random: NonNegativeInt = 50
    """Random sets of as many components of the same sites, for comparison."""
    null: Literal["alive", "matched"] = "alive"
    """What random sets are drawn from: components that fire at all, or those that matter about as much on
    average as the chosen ones."""
    at_once: PositiveInt = 8
    """Sets that run in one pass."""
