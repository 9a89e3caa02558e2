"""Image networks from wherever they come, and untrained ones of the same architecture."""

import copy
import json
import random
import warnings

import numpy as np
import pytest
import torch
from own_networks import SmallNet
from safetensors.torch import save_file
from torch import nn

from microtome.core.config import Config
from microtome.core.errors import CannotLoad, MicrotomeError
from microtome.core.runs import RunFolder
from microtome.data.labelled_images import LabelledImages
from microtome.targets.few_shot_convnet import FewShotConvNet
from microtome.targets.image_network import initial_of, open_network, untrained, weights_digest
from microtome.targets.module_sources import build, parse_architecture
from microtome.targets.same_different_nets import SameDifferentNet

SMALL = {"image_size": 32, "widths": [8, 8, 8]}


def images(channels=1, size=8, n=4):
    pixels = torch.randint(0, 256, (n, channels, size, size), dtype=torch.uint8)
    return LabelledImages(pixels, {}, tuple(map(str, range(n))), "test images")


def saved(path, module):
    torch.save(module.state_dict(), path)
    return str(path)


# -- checkpoints


def test_class_inferred_from_names_and_shapes(tmp_path):
    made = SameDifferentNet("conv2lr", **SMALL).eval()
    network = open_network(saved(tmp_path / "best_model.pt", made), images=images(3, 32))
    assert (network.channels, network.size) == (3, 32)
    assert not network.module.training and not any(p.requires_grad for p in network.module.parameters())
    x = torch.rand(3, 3, 32, 32)
    torch.testing.assert_close(network.module(x), made(x))
    assert network.digest == weights_digest(made)


def test_few_shot_checkpoint_in_safetensors(tmp_path):
    save_file(FewShotConvNet(4, n_classes=3).state_dict(), tmp_path / "a.safetensors")
    network = open_network(str(tmp_path / "a.safetensors"))
    assert (network.channels, network.size) == (1, 28)
    assert network.module(torch.rand(2, 1, 28, 28)).shape == (2, 3)


def test_own_class_before_the_checkpoint_or_beside_it(tmp_path):
    source = SmallNet(5)
    path = saved(tmp_path / "a.pt", source)
    for network in (
        open_network(f"own_networks:SmallNet(width=5)@{path}", images=images()),
        open_network(path, architecture="own_networks:SmallNet(5)"),
    ):
        assert weights_digest(network.module) == weights_digest(source)
        assert (network.channels, network.size) == (1, None)


def test_own_class_as_constructed_is_the_same_each_time():
    first, second = (open_network("own_networks:tiny") for _ in range(2))
    assert first.digest == second.digest


def test_digest_changes_with_a_weight():
    network = SmallNet()
    before = weights_digest(network)
    with torch.no_grad():
        network.model[3].bias[0] += 1e-3
    assert weights_digest(network) != before


def test_checkpoint_of_an_unknown_class_is_told(tmp_path):
    with pytest.raises(CannotLoad, match=r"model\.0\.weight.*--architecture package\.module:Class"):
        open_network(saved(tmp_path / "a.pt", SmallNet()))


@pytest.mark.parametrize(
    ("reference", "told"),
    [
        ("own_networks:SmallNet(width=n)", "not plain numbers"),
        ("own_networks:SmallNet(**{})", "not plain numbers"),
        ("own_networks:SmallNet(size=3)", "cannot be made with these arguments"),
        ("own_networks:Missing", "cannot be imported"),
        ("no_such_module:Net", "cannot be imported"),
        ("own_networks:nn", "neither a class nor a function"),
        ("own_networks:not_a_network", "gives a int, not an nn.Module"),
        ("conv6lr(image_size=8)", "too small"),
        ("own_networks:SmallNet@nothing.pt", "no such run or file"),
        ("nothing.pt", "no such run or file"),
    ],
)
def test_wrong_references_are_told_in_one_line(reference, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MicrotomeError, match=told) as caught:
        open_network(reference)
    assert "\n" not in str(caught.value)


def test_nan_weights_are_refused(tmp_path):
    module = SmallNet()
    with torch.no_grad():
        module.model[0].weight[0] = float("nan")
    path = saved(tmp_path / "a.pt", module)
    with pytest.raises(CannotLoad, match=r"NaN or infinity in model\.0\.weight"):
        open_network(path, architecture="own_networks:SmallNet")


def test_images_that_do_not_fit_are_told():
    with pytest.raises(MicrotomeError, match="takes 1 channels; ask for them with --channels 1"):
        open_network("own_networks:SmallNet", images=images(3))
    with pytest.raises(MicrotomeError, match=r"1x9x9 do not fit .*--image-size"):
        open_network("own_networks:SmallNet", images=images(1, 9))


def test_architecture_by_name():
    assert isinstance(build(parse_architecture("conv4(image_size=32)")), SameDifferentNet)
    assert isinstance(build(parse_architecture("few-shot-convnet(channels=3)")), FewShotConvNet)
    for wrong in ("conv3", "conv2(32)", "few-shot-convnet(layers=3)"):
        with pytest.raises(CannotLoad):
            build(parse_architecture(wrong))
    with pytest.raises(CannotLoad, match="unknown"):
        build({"kind": "perceptron"})


# -- runs


@pytest.fixture
def run(tmp_path):
    """A run of few-shot training, as far as its networks go."""
    folder = RunFolder.create(tmp_path / "runs" / "few", Config(), kind="train-few-shot")
    architecture = {"kind": "few-shot-convnet", "channels": 4, "image_size": 14, "n_classes": 3}
    described = {"architecture": architecture, "channels": 1, "size": 14, "mean": 0.1, "std": 0.2}
    folder.save_json("network.json", described)
    for name in ("model", "initial"):
        module = build(architecture)
        save_file(module.state_dict(), folder.path / f"{name}.safetensors")
    return folder


def test_run_folder_gives_network_and_its_initialisation(run, monkeypatch):
    monkeypatch.chdir(run.path.parent.parent)
    network = open_network("latest")
    assert (network.channels, network.size, network.mean, network.std) == (1, 14, 0.1, 0.2)
    assert network.digest == open_network(str(run.path)).digest
    initial = initial_of(network)
    assert initial is not None
    assert initial.digest not in ("", network.digest)
    assert initial.digest == open_network(str(run.path / "initial.safetensors")).digest
    assert initial_of(initial) is None
    assert initial_of(untrained(network, 0)) is None


def test_unfinished_and_other_runs_are_told(run, tmp_path):
    (run.path / "model.safetensors").unlink()
    with pytest.raises(CannotLoad, match="not come to its end"):
        open_network(str(run.path))
    other = RunFolder.create(tmp_path / "other", Config(), kind="train-tms")
    with pytest.raises(CannotLoad, match="a train-tms run, not a train-few-shot run"):
        open_network(str(other.path))
    (run.path / "network.json").write_text(json.dumps({"size": 3}))
    with pytest.raises(CannotLoad, match="not the description of a network"):
        open_network(str(run.path / "initial.safetensors"))


# -- untrained networks


@pytest.mark.parametrize("reference", ["conv2lr(image_size=16)", "own_networks:SmallNet"])
def test_untrained_networks_by_seed_leave_global_random_numbers_alone(reference):
    network = open_network(reference)
    before = torch.get_rng_state(), random.getstate(), str(np.random.get_state())
    first, again, other = (untrained(network, seed) for seed in (1, 1, 2))
    assert torch.equal(before[0], torch.get_rng_state())
    assert (random.getstate(), str(np.random.get_state())) == before[1:]
    assert first.digest == again.digest
    assert len({network.digest, first.digest, other.digest}) == 3
    assert type(first.module) is type(network.module) and not first.module.training


def test_untrained_lazy_layers_get_fresh_weights(tmp_path):
    path = saved(tmp_path / "a.pt", SmallNet())
    network = open_network(path, architecture="own_networks:SmallNet(lazy=True)")
    fresh = untrained(network, 0)
    assert fresh.digest == untrained(network, 0).digest
    assert not torch.equal(fresh.module.model[3].weight, network.module.model[3].weight)
    assert abs(float(fresh.module.model[3].weight.std()) * 16 * 3**0.5 - 1) < 0.2  # uniform by fan-in


# -- torch.export and TorchScript


def export(module, x, path, dynamic=True):
    shapes = ({0: torch.export.Dim("batch")},) if dynamic else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(torch.export.export(module, (x,), dynamic_shapes=shapes), path)
    return str(path)


@pytest.mark.parametrize("batch_statistics", [True, False])
def test_exported_network_is_the_network_with_its_layers(tmp_path, batch_statistics):
    made = SameDifferentNet("conv2lr", batch_statistics=batch_statistics, **SMALL).eval()
    x = torch.rand(5, 3, 32, 32)
    network = open_network(export(made, x, tmp_path / "a.pt2"), images=images(3, 32))
    assert (network.channels, network.size) == (3, 32)
    y = torch.rand(3, 3, 32, 32)
    torch.testing.assert_close(network.module(y), made(y))
    kinds = {name: type(part) for name, part in network.module.named_modules()}
    assert kinds["conv1"] is nn.Conv2d and kinds["fc_layers.2"] is nn.Linear and kinds["relu2"] is nn.ReLU
    assert network.module.get_submodule("bn1").track_running_stats is not batch_statistics
    seen = []
    network.module.get_submodule("conv2").register_forward_hook(lambda *given: seen.append(given[2].shape))
    copied = copy.deepcopy(network.module)
    torch.testing.assert_close(copied(y), made(y))
    network.module(y)
    assert len(seen) == 2 and seen[0][:2] == (3, 12)


def test_exported_network_untrained(tmp_path):
    module = SmallNet()
    network = open_network(export(module, torch.rand(5, 1, 8, 8), tmp_path / "a.pt2"))
    fresh, again, other = (untrained(network, seed) for seed in (0, 0, 1))
    assert fresh.digest == again.digest and len({network.digest, fresh.digest, other.digest}) == 3
    assert network.digest == open_network(str(tmp_path / "a.pt2")).digest
    # A scale of its own is not known for the temperature of conv2lr: that is said.
    made = SameDifferentNet("conv2lr", **SMALL).eval()
    said = open_network(export(made, torch.rand(5, 3, 32, 32), tmp_path / "b.pt2"))
    assert "redrawn at the same scale" in untrained(said, 0).name


def test_export_for_one_batch_size_is_refused(tmp_path):
    path = export(SmallNet(), torch.rand(5, 1, 8, 8), tmp_path / "a.pt2", dynamic=False)
    with pytest.raises(CannotLoad, match=r"batches of exactly 5.*dynamic_shapes"):
        open_network(path)


def test_export_with_a_pickle_in_it_is_refused(tmp_path):
    import zipfile

    whole = export(SmallNet(), torch.rand(5, 1, 8, 8), tmp_path / "a.pt2")
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(tmp_path / "b.pt2", "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name.endswith("model_weights_config.json"):
                content = content.replace(b'"use_pickle": false', b'"use_pickle": true')
            new.writestr(name, content)
    with pytest.raises(CannotLoad, match="could run code, refused unread"):
        open_network(str(tmp_path / "b.pt2"))
    (tmp_path / "c.pt2").write_bytes(b"no")
    with pytest.raises(CannotLoad, match=r"not a torch\.export file"):
        open_network(str(tmp_path / "c.pt2"))


def test_torchscript_gives_its_weights(tmp_path):
    module = SmallNet()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(module).save(tmp_path / "a.pt")
    network = open_network(f"own_networks:SmallNet@{tmp_path / 'a.pt'}")
    assert network.digest == weights_digest(module)
    with pytest.raises(CannotLoad, match=r"torch\.export\.save"):
        open_network(str(tmp_path / "a.pt"))


# -- Hugging Face


def test_hugging_face_folder(tmp_path):
    transformers = pytest.importorskip("transformers")
    settings = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.ViTConfig(**settings, image_size=16, patch_size=8, num_channels=1, num_labels=3)
    model = transformers.ViTForImageClassification(config).eval()
    model.save_pretrained(tmp_path / "vit")
    said = {"image_mean": [0.2], "image_std": [0.4], "do_normalize": True}
    (tmp_path / "vit" / "preprocessor_config.json").write_text(json.dumps(said))
    network = open_network(str(tmp_path / "vit"), images=images(1, 16))
    assert (network.channels, network.size, network.mean, network.std) == (1, 16, 0.0, 1.0)
    some = images(1, 16)
    out = network.module(some.inputs(mean=network.mean, std=network.std))
    expected = model((some.pixels.float() / 255 - 0.2) / 0.4).logits
    torch.testing.assert_close(out, expected)
    fresh = untrained(network, 0)
    assert fresh.digest == untrained(network, 0).digest != network.digest
    (tmp_path / "vit" / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(CannotLoad, match="cannot be loaded as a vision model"):
        open_network(str(tmp_path / "vit"))


def test_hugging_face_models_of_text_are_told(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(vocab_size=8, n_positions=8, n_embd=8, n_layer=1, n_head=1)
    transformers.GPT2Model(config).save_pretrained(tmp_path / "gpt")
    with pytest.raises(CannotLoad, match="gpt2 model, which takes no images"):
        open_network(str(tmp_path / "gpt"))
