"""Configurations of target training: every field of the original APD and SPD codes, and ours. Torch free."""

from typing import Any, ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from microtome.core.config import Probability
from microtome.core.errors import bad_value
from microtome.data.generation import DataGenerationType, check_generation
from microtome.targets.config import MLPModelConfig, ResidMLPModelConfig, TMSModelConfig
from microtome.training.few_shot_config import FewShotTrainConfig
from microtome.training.induction_config import InductionTrainConfig
from microtome.training.instance_settings import InstanceSettings, check_keep
from microtome.training.language_config import LanguageModelTrainConfig
from microtome.training.run_settings import RunSettings

__all__ = [
    "DigitsTrainConfig",
    "FewShotTrainConfig",
    "InductionTrainConfig",
    "InstanceSettings",
    "LanguageModelTrainConfig",
    "MLPModelConfig",
    "ResidMLPModelConfig",
    "ResidMLPTrainConfig",
    "RunSettings",
    "TMSModelConfig",
    "TMSTrainConfig",
]

Schedule = Literal["constant", "linear", "cosine", "cosine_half", "exponential"]


class TMSTrainConfig(InstanceSettings):
    """Training of Toy Models of Superposition. The defaults are the local run of the old README (40-10)."""

    renamed: ClassVar[dict[str, str]] = {"tms_config": "tms_model_config"}

    tms_model_config: TMSModelConfig = TMSModelConfig(n_instances=3)
    feature_probability: Probability = 0.05
    batch_size: PositiveInt = 2048
    steps: PositiveInt = 2000
    lr: PositiveFloat = 1e-3
    lr_schedule: Schedule = "linear"
    """``linear`` is what the original APD code always ran (it also ignored ``lr`` and took 5e-3; here ``lr``
    counts). The SPD paper's code trained with ``constant``."""
    data_generation_type: DataGenerationType = "at_least_zero_active"
    fixed_identity_hidden_layers: bool = False
    """Hidden layers are the identity and stay so."""
    fixed_random_hidden_layers: bool = False
    """Hidden layers have standard normal entries and stay so."""
    synced_inputs: list[list[NonNegativeInt]] | None = None
    """Groups of features that are always on together."""
    initialisation: Literal["xavier", "linear"] = "xavier"
    """``xavier`` starts from a zero bias and ends in the pentagon every time (5 features, 2 dimensions).
    ``linear`` with ``init_bias_to_zero: false``, the SPD paper's 5-2 setting, does in 5 of 40 tries."""

    @model_validator(mode="after")
    def _check(self) -> "TMSTrainConfig":
        if self.fixed_identity_hidden_layers and self.fixed_random_hidden_layers:
            raise bad_value(
                "fixed_random_hidden_layers", True, "so is fixed_identity_hidden_layers", "set at most one"
            )
        check_generation(self.data_generation_type, self.tms_model_config.n_features, self.synced_inputs)
        check_keep(self.keep, self.tms_model_config.n_instances)
        return self


class ResidMLPTrainConfig(InstanceSettings):
    """Training of residual MLPs on ``act(c x) + x`` or ``|c x|``. Defaults: the papers' 1-layer network."""

    renamed: ClassVar[dict[str, str]] = {"resid_mlp_model_config": "resid_mlp_config"}

    resid_mlp_config: ResidMLPModelConfig = ResidMLPModelConfig()
    label_fn_seed: int = 0
    """Seed of the label coefficients."""
    label_type: Literal["act_plus_resid", "abs"] = "act_plus_resid"
    loss_type: Literal["readoff", "resid"] = "readoff"
    """``readoff`` compares outputs with labels, ``resid`` the residual stream with the embedded labels."""
    use_trivial_label_coeffs: bool = True
    """All coefficients one; otherwise uniform in [1, 2]."""
    feature_probability: Probability = 0.01
    synced_inputs: list[list[NonNegativeInt]] | None = None
    importance_val: float | None = Field(default=None, gt=0, le=1)
    """Feature i counts ``importance_val ** i`` in the loss; left out, all count the same."""
    data_generation_type: DataGenerationType = "at_least_zero_active"
    batch_size: PositiveInt = 2048
    steps: PositiveInt = 1000
    lr: PositiveFloat = 3e-3
    lr_schedule: Schedule = "cosine"
    """``cosine`` is the quarter wave of the original codes."""
    fixed_random_embedding: bool = True
    """Unit-length random rows ``W_E``, ``W_U = W_E^T``, not trained."""
    fixed_identity_embedding: bool = False
    """``W_E`` and ``W_U`` the identity; needs ``d_embed == n_features``."""
    n_batches_final_losses: PositiveInt = 10
    """Fresh batches over which the final loss is averaged."""
    initialisation: Literal["xavier", "linear"] = "xavier"

    @model_validator(mode="before")
    @classmethod
    def _one_embedding(cls, values: Any) -> Any:
        # A file that asks for the identity alone means it, although random is our default.
        if isinstance(values, dict) and values.get("fixed_identity_embedding"):
            return {"fixed_random_embedding": False, **values}
        return values

    @model_validator(mode="after")
    def _check(self) -> "ResidMLPTrainConfig":
        model = self.resid_mlp_config
        if self.fixed_random_embedding and self.fixed_identity_embedding:
            raise bad_value(
                "fixed_random_embedding", True, "so is fixed_identity_embedding", "set at most one"
            )
        if self.fixed_identity_embedding and model.n_features != model.d_embed:
            raise bad_value(
                "fixed_identity_embedding",
                True,
                f"d_embed is {model.d_embed} and n_features {model.n_features}",
                "make them equal",
            )
        if self.loss_type == "resid" and self.importance_val not in (None, 1.0):
            raise bad_value(
                "importance_val", self.importance_val, "cannot weight loss_type=resid", "leave it out"
            )
        check_generation(self.data_generation_type, model.n_features, self.synced_inputs)
        check_keep(self.keep, model.n_instances)
        return self


class DigitsTrainConfig(InstanceSettings):
    """Training of small classifiers on the 1,797 handwritten digits that scikit-learn ships."""

    hidden_sizes: tuple[PositiveInt, ...] = (32,)
    """Widths of the hidden layers between the 64 pixels and the 10 classes."""
    n_instances: PositiveInt = 1
    batch_size: PositiveInt = 256
    steps: PositiveInt = 2000
    lr: PositiveFloat = 3e-3
    lr_schedule: Schedule = "cosine_half"

    @model_validator(mode="after")
    def _check(self) -> "DigitsTrainConfig":
        check_keep(self.keep, self.n_instances)
        return self
