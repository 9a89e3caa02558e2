import pytest
import torch
from torch.nn.functional import gelu

from microtome.core.errors import MicrotomeError
from microtome.data.labels import ResidLabels, feature_importances, label_coefficients


def test_labels_by_hand() -> None:
    x = torch.tensor([[[1.0, -0.5], [-1.0, 0.0]]])
    c = torch.tensor([2.0, 4.0])
    assert ResidLabels(c)(x).tolist() == [[[3.0, -0.5], [-1.0, 0.0]]]
    assert ResidLabels(c, "abs")(x).tolist() == [[[2.0, 2.0], [2.0, 0.0]]]
    torch.testing.assert_close(ResidLabels(c, act_fn_name="gelu")(x), gelu(c * x) + x)


def test_coefficients_of_each_instance() -> None:
    c = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    out = ResidLabels(c, "abs")(torch.ones(2, 5, 2))
    assert torch.equal(out, c.unsqueeze(1).expand(2, 5, 2))


def test_coefficients() -> None:
    assert torch.equal(label_coefficients(4, trivial=True), torch.ones(4))
    drawn = label_coefficients(1000, seed=3)
    assert drawn.min() >= 1 and drawn.max() <= 2 and abs(drawn.mean().item() - 1.5) < 0.05
    # The stream of the original code, so that old label functions come back.
    assert torch.equal(drawn, torch.rand(1000, generator=torch.Generator().manual_seed(3)) + 1)


def test_importances() -> None:
    assert feature_importances(3, 0.5).tolist() == [1, 0.5, 0.25]
    assert feature_importances(3, None).tolist() == feature_importances(3, 1).tolist() == [1, 1, 1]
    with pytest.raises(MicrotomeError, match="importance_val"):
        feature_importances(3, 2)
