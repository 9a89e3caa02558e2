"""A whole comparison: what it must find, what it must not, and that it can be carried on and drawn again."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import microtome
from microtome.cli.compare import parse_args
from microtome.cli.main import main
from microtome.comparison.result import Comparison
from microtome.core.errors import CannotLoad, MicrotomeError

IMAGES, SIZE, CLASSES = 72, 12, 3
# Small and quick: what is tested is what comes together, not how finely each part measures.
QUICK = {
    "untrained": 3,
    "features": {"steps": 20, "max_features": 16, "layers": 1},
    "probes": {"permutations": 20, "mlp_steps": 20, "bootstraps": 200},
    "weights": {"pictures": 2},
}


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.BatchNorm2d(8, track_running_stats=False),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 12, 3, padding=1),
        nn.BatchNorm2d(12, track_running_stats=False),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(12 * 9, CLASSES),
    )


def pictures(seed: int = 0) -> tuple[Tensor, np.ndarray]:
    """Stripes of three widths with noise: easy to tell apart."""
    generator = torch.Generator().manual_seed(seed)
    labels = np.arange(IMAGES) % CLASSES
    x = torch.randn(IMAGES, 1, SIZE, SIZE, generator=generator) * 0.7
    for row, label in enumerate(labels):
        x[row, 0, :: int(label) + 2] += 1.5
    return x, labels


def compared(a: nn.Module, b: nn.Module, out: Path, **settings: object) -> Comparison:
    images = settings.pop("images", None) or pictures()
    return microtome.compare(a, b, images=images, output_dir=out, **(QUICK | settings))  # pyright: ignore


def permuted(module: nn.Module) -> nn.Module:
    """The same function with the hidden channels in another order."""
    other = network(0)
    other.load_state_dict(module.state_dict())
    order = torch.randperm(8, generator=torch.Generator().manual_seed(5))
    second = torch.randperm(12, generator=torch.Generator().manual_seed(6))
    with torch.no_grad():
        for at, rows in ((0, order), (1, order), (4, second), (5, second)):
            for parameter in other[at].parameters():
                parameter.copy_(parameter[rows])
        other[4].weight.copy_(other[4].weight[:, order])
        columns = (second[:, None] * 9 + torch.arange(9)).flatten()
        other[9].weight.copy_(other[9].weight[:, columns])
    return other


def test_a_network_against_its_own_permuted_copy_is_the_same(tmp_path: Path):
    first = network(1)
    x = pictures()[0]
    second = permuted(first)
    torch.testing.assert_close(first(x), second(x))
    found = compared(first, second, tmp_path / "out")
    table = found.frame()
    aligned = table[(table.statistic == "aligned cosine") & (table.other == "b")]
    assert len(aligned) == 3 and np.allclose(aligned.value, 1, atol=1e-5)
    plain = table[(table.statistic == "cosine") & (table.other == "b")]
    assert plain.value.min() < 0.9
    cka = table[(table.statistic == "debiased CKA") & (table.arm == "a") & (table.other == "b")]
    assert len(cka) and np.allclose(cka.value, 1, atol=1e-5)
    probes = table[
        (table.analysis == "probes") & table.statistic.str.contains("linear") & (table.other == "")
    ]
    accuracy = [probes[probes.arm == arm].value.to_numpy() for arm in ("a", "b")]
    assert len(accuracy[0]) >= 3
    np.testing.assert_allclose(accuracy[0], accuracy[1], atol=1e-6)
    standing = [one.sentence for one in found.judged if one.distinguishable]
    assert all("more alike" in sentence or "in common" in sentence for sentence in standing), standing


def test_a_layer_that_was_made_anew_is_named(tmp_path: Path):
    first, second = network(1), network(1)
    torch.manual_seed(99)
    with torch.no_grad():
        for parameter in second[4].parameters():
            parameter.copy_(torch.randn_like(parameter) * 3)
    found = compared(first, second, tmp_path / "out", analyze_weights=True, analyze_activations=True)
    table = found.frame()
    cosine = table[(table.statistic == "aligned cosine") & (table.other == "b")].set_index("layer").value
    assert cosine.idxmin() == "4" and cosine["0"] == pytest.approx(1) and cosine["9"] == pytest.approx(1)
    standing = [one.sentence for one in found.judged if one.distinguishable]
    assert any("differ in what 4 does: up to 0 they see the images the same way" in one for one in standing)
    assert not any("what 0 does" in one or "what 9 does" in one for one in standing)


def test_the_order_of_the_images_and_the_batch_size_do_not_matter(tmp_path: Path):
    x, labels = pictures()
    by_class = np.argsort(labels, kind="stable")
    shuffled = np.random.default_rng(3).permutation(IMAGES)
    found = [
        compared(
            network(1),
            network(2),
            tmp_path / str(size),
            images=(x[order], labels[order]),
            batch_size=size,
            analyze_activations=True,
            probe_representations=True,
        ).frame()
        for order, size in ((by_class, 8), (shuffled, 64))
    ]
    assert list(found[0].statistic) == list(found[1].statistic)
    np.testing.assert_allclose(found[0].value, found[1].value, rtol=1e-4, atol=1e-5)


def test_a_stopped_comparison_goes_on_and_a_finished_one_is_drawn_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    for seed in (1, 2):
        torch.save(network(seed).state_dict(), tmp_path / f"{seed}.pt")
    data = tmp_path / "data"
    x, labels = pictures()
    for row, (pixels, label) in enumerate(zip(x, labels.tolist(), strict=True)):
        (data / f"class{label}").mkdir(parents=True, exist_ok=True)
        gray = ((pixels[0] + 3) * 40).clamp(0, 255).to(torch.uint8).numpy()
        Image.fromarray(gray).save(data / f"class{label}" / f"{row:03d}.png")
    (tmp_path / "kind.py").write_text(
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from test_whole_comparison import network\ndef Net(): return network(0)\n"
    )
    monkeypatch.chdir(tmp_path)
    words = ["compare", "--model-a", "1.pt", "--model-b", "2.pt", "--architecture", "kind:Net()"]
    words += ["--data", "data", "--image-size", "12", "--channels", "1", "--analyze-weights"]
    words += ["--analyze-activations", "--untrained", "2", "--output-dir", "out", "--quiet"]
    assert main(words) == 0
    first = json.loads(Path("out/results.json").read_text())
    weights = Path("out/results/weights.json").stat().st_mtime_ns
    for path in ("results/similarity.json", "results.json", "summary.json"):
        Path("out", path).unlink()
    with pytest.raises(CannotLoad):
        microtome.load_comparison("out")
    assert main(["compare", "--resume", "out", "--quiet"]) == 0
    assert json.loads(Path("out/results.json").read_text()) == first
    assert Path("out/results/weights.json").stat().st_mtime_ns == weights  # kept, not made again
    picture = next(Path("out/weight_analysis").glob("*.png"))
    picture.unlink()
    assert main(["compare", "--redraw", "out"]) == 0 and picture.is_file()
    assert main(["compare", "--redraw", "out", "--seed", "3"]) == 2
    assert "keeps its own settings" in capsys.readouterr().err


def test_what_does_not_fit_is_told_before_anything_is_written(tmp_path: Path):
    x, labels = pictures()
    with pytest.raises(MicrotomeError, match="one an image"):
        compared(network(1), network(2), tmp_path / "out", images=(x, labels[:5]))
    for unpaired in (x, (x,)):
        with pytest.raises(MicrotomeError, match=r"give the pair \(x, labels\)"):
            microtome.compare(network(1), network(2), images=unpaired, output_dir=tmp_path / "out")  # pyright: ignore
    with pytest.raises(MicrotomeError, match=r"give \[images, channels, rows, columns\]"):
        compared(network(1), network(2), tmp_path / "out", images=(x[:, 0], labels))
    with pytest.raises(MicrotomeError, match="one class only"):
        compared(network(1), network(2), tmp_path / "out", images=(x, labels * 0))
    broken = network(3)
    with torch.no_grad():
        broken[0].weight[0] = float("nan")
    with pytest.raises(MicrotomeError, match=r"NaN or infinity in 0\.weight"):
        compared(network(1), broken, tmp_path / "out")
    with pytest.raises(MicrotomeError, match="on both sides"):
        compared(network(1), "a.pt", tmp_path / "out")  # pyright: ignore
    with pytest.raises(MicrotomeError, match="the same weights as"):
        compared([network(1), network(1)], [network(2), network(3)], tmp_path / "out")  # pyright: ignore
    with pytest.raises(MicrotomeError, match="seeds share an architecture"):
        compared([network(1), network(2)[:4]], network(3), tmp_path / "out")  # pyright: ignore
    assert not (tmp_path / "out").exists()


def test_files_of_the_user_are_not_replaced(tmp_path: Path):
    own = tmp_path / "results"
    own.mkdir()
    (own / "mine.txt").write_text("years of work")
    with pytest.raises(MicrotomeError, match="holds results of no comparison made here"):
        compared(network(1), network(2), tmp_path)
    assert (own / "mine.txt").read_text() == "years of work"
    quick = compared(network(1), network(2), tmp_path / "new", analyze_weights=True)
    assert len(repr(quick)) < 300 and "differences above noise" in repr(quick)


def test_further_arms_have_seeds_on_the_command_line_too():
    words = ["--model-a", "a.pt", "--model-b", "b.pt", "--more"]
    one = parse_args([*words, "c=c.pt,d.pt"])
    assert one.further == [("c", ("c.pt", "d.pt"))]
    two = parse_args([*words, "c=c.pt,d.pt", "e=m.n:Net(width=4,depth=2)@e.pt"])
    assert two.further == [("c", ("c.pt", "d.pt")), ("e", ("m.n:Net(width=4,depth=2)@e.pt",))]
    assert parse_args([*words, "c=c.pt", "d.pt"]).further == one.further
    for nameless in ("c.pt", "m.n:Net(width=4)@e.pt"):
        with pytest.raises(MicrotomeError, match="has no name"):
            parse_args([*words, nameless])
