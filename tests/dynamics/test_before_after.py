"""Before against after on recorded runs: numbers against those computed by hand, files, and bad input."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from microtome.cli.main import main
from microtome.core.errors import MicrotomeError
from microtome.dynamics.before_after import compare, nearest_states, usual_changes
from microtome.dynamics.comparison_files import write_comparison
from microtome.dynamics.moments import CriticalMoment
from microtome.dynamics.recorder import Recorder
from microtome.dynamics.run import DynamicsRun, open_run
from microtome.dynamics.state_comparison import compare_activations
from microtome.measures.attention import attention_entropy
from microtome.measures.representation_similarity import debiased_cka


class Attends(nn.Module):
    """Convolution, attention, classes: everything that a comparison looks at."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.head = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.conv(x).flatten(2).mT
        mixed, _ = self.attention(tokens, tokens, tokens, need_weights=False)
        return self.head((tokens + mixed).mean(1))


def data() -> tuple[torch.Tensor, torch.Tensor]:
    labels = torch.arange(30) % 3
    x = torch.randn(30, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    return x + labels.view(-1, 1, 1, 1) / 2, labels


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty steps, measured at every second, states kept at every tenth."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    x, y = data()
    model = Attends()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    out = tmp_path_factory.mktemp("runs") / "mine"
    with Recorder(model, x, out, labels=y, when=2, save=10) as recorder:
        for step in range(61):
            loss = F.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            recorder.step(step, loss=loss)
    return out


@pytest.fixture(scope="module")
def run(folder: Path) -> DynamicsRun:
    return open_run(folder)


def test_states_and_representations_by_hand(run: DynamicsRun) -> None:
    result = compare(run, 10, 50, model=Attends())
    found = result.measurements
    assert result.moment == "step_10_to_step_50" and found["states"] == {"before": 10, "after": 50}
    assert found["notes"] == []
    x, y = data()
    models = []
    for step in (10, 50):
        models.append(Attends().eval())
        models[-1].load_state_dict(run.checkpoint(step))
    with torch.no_grad():
        logits = [model(x) for model in models]
        tokens = [model.conv(x).flatten(2).mT for model in models]
        patterns = [
            model.attention(t, t, t, average_attn_weights=False)[1]
            for model, t in zip(models, tokens, strict=True)
        ]
    for word, out, pattern in zip(("before", "after"), logits, patterns, strict=True):
        assert found["probe"][f"loss_{word}"] == pytest.approx(float(F.cross_entropy(out, y)), rel=1e-5)
        assert found["probe"][f"accuracy_{word}"] == pytest.approx(
            float((out.argmax(-1) == y).float().mean())
        )
        entropy = found["attention"]["attention"][word]["mean_entropy"]
        assert entropy == pytest.approx(attention_entropy(pattern), rel=1e-5)
    assert found["representations"]["head"]["cka"] == pytest.approx(
        debiased_cka(*(out.double().numpy() for out in logits)), abs=1e-5
    )
    change = run.checkpoint(50)["head.weight"] - run.checkpoint(10)["head.weight"]
    assert found["weights"]["head.weight"]["l2_norm"] == pytest.approx(float(change.norm()), rel=1e-5)
    assert found["filters"]["conv.weight"]["kind"] == "filter"
    assert (
        found["representations"]["head"]["selectivity_after"]
        > found["representations"]["head"]["selectivity_before"]
    )


def test_measures_and_losses_by_hand(run: DynamicsRun) -> None:
    before, after = (
        CriticalMoment(run.name, step, kind) for step, kind in ((11, "before_ramp"), (41, "after_ramp"))
    )
    result = compare(run, before, after, measure="stable_rank")
    found = result.measurements
    assert result.moment == "before_ramp_to_after_ramp"
    assert (found["step_before"], found["step_after"]) == (10, 40), "the nearest records, the first of two"
    steps, losses = run.scalar("loss")
    assert found["loss_change"] == pytest.approx(losses[steps == 40][0] - losses[steps == 10][0])
    steps, values = run.series("head", "stable_rank")
    pair = [values[steps == step][0] for step in (10, 40)]
    change = found["layer_changes"]["head"]
    assert [change["before"], change["after"], change["change"]] == pytest.approx([*pair, pair[1] - pair[0]])
    assert change == found["measures"]["stable_rank"]["head"]
    assert "states" in found and "weights" in found and "representations" not in found
    assert any("the network is not known" in note for note in found["notes"])
    assert any("that of step 40, the nearest one kept to step 41" in note for note in found["notes"])
    assert "the measures after are those of step 40, the record nearest to step 41" in found["notes"]


def test_the_usual_change_is_that_of_spans_elsewhere() -> None:
    import pandas as pd

    steps = np.arange(0, 200, 5)
    values = np.stack([np.cumsum(np.ones(40)), np.zeros(40)], 1)
    values[20:, 1] = 7.0
    run = DynamicsRun(
        "x", Path("x.json"), steps, ["steady", "jump"], {"m": values}, pd.DataFrame({"step": steps}), {}
    )
    usual = usual_changes(run, "m", [18, 22])
    assert usual == {"steady": 4.0, "jump": 0.0}
    found = compare(run, 90, 110).measurements
    assert found["usual_changes"] == usual and found["layer_changes"]["jump"]["change"] == 7
    assert math.isnan(found["layer_changes"]["jump"]["relative_change"]) and math.isnan(found["loss_change"])
    assert math.isnan(usual_changes(run, "m", [0, 39])["steady"]), "nothing elsewhere to compare with"


def test_nearest_states_lean_outwards() -> None:
    assert nearest_states([[0, 10, 20], [0, 10, 20]], (15, 5)) == (10, 10)
    assert nearest_states([[0, 10, 20], [0, 10, 20]], (5, 15)) == (0, 20)


def test_files(run: DynamicsRun, tmp_path: Path) -> None:
    result = compare(run, 0, 60, model=Attends())
    written = write_comparison(result, tmp_path, run, model=Attends())
    names = {path.name for path in written}
    assert names == {
        "analysis_results.json",
        "comparison_report.md",
        "layer_changes.png",
        "representation_similarity.png",
        "attention_attention_pattern.png",
        "conv_filter_viz.png",
        "attention_entropy_evolution.png",
    }
    numbers = json.loads((tmp_path / "analysis_results.json").read_text())
    assert numbers["measurements"]["loss_change"] == result.measurements["loss_change"]
    assert set(numbers["visualizations"].values()) == {name for name in names if name.endswith(".png")}
    report = (tmp_path / "comparison_report.md").read_text()
    for words in ("# mine: step 0 to step 60", "| attention 1 |", "| conv.weight |", "(conv_filter_viz.png)"):
        assert words in report, words


def typed(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    assert main(["dynamics", *words]) == code
    said = capsys.readouterr()
    if code:
        assert len(said.err.strip().splitlines()) == 1, said.err
    return said.err if code else said.out


def test_compare_on_the_command_line(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    said = typed(capsys, "compare", str(folder), "10", "50", "--no-plots", "--out-dir", "one")
    assert said.startswith("mine: step 10 to step 50") and Path("one/analysis_results.json").is_file()
    said = typed(capsys, "compare", f"{folder}@0", f"{folder}@60", "--no-plots")
    assert (folder / "comparison_step_0_to_step_60" / "comparison_report.md").is_file()
    root = ["--runs-root", str(folder.parent), "--no-plots"]
    assert "step 0 to step 20" in typed(capsys, "compare", "0", "20", *root)
    states = [str(folder / "checkpoints" / f"step_{step:06d}.safetensors") for step in (0, 60)]
    said = typed(capsys, "compare", *states)
    assert "weights only" in said and "conv_filter_viz.png" in said


class Code:
    def __reduce__(self):
        return (print, ("this must never be run",))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["RUN", "50", "10"], "moments out of order"),
        (["RUN", "10", "10"], "moments out of order"),
        (["RUN", "10"], "one step only"),
        (["RUN", "1", "2", "3"], "takes RUN"),
        (["nothing_here", "1", "2"], "no such run or file"),
        (["RUN", "0", "60", "--measure", "stabel_rank"], "did you mean stable_rank?"),
        (["RUN", "0", "60", "--model", "torch.nn:Linear(3, 2)"], "the state does not fit the model"),
        (["RUN", "0", "60", "--model", "torch.nn:Lineal"], "cannot be imported"),
        (["half.json", "0", "60"], "half-written or not JSON"),
        (["missing.json", "0", "60"], "no such file"),
        (["RUN", "other.json"], "different layers"),
        (["code.pt", "code.pt"], "carries code or objects, refused unread"),
        (["RUN", "0", "60", "--learning_coefficient"], "the network is not known"),
    ],
)
def test_bad_input(
    words: list[str],
    said: str,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("half.json").write_text('{"measurements": [{"step": 0')
    metrics = {"other": {"stable_rank": 1.0}}
    Path("other.json").write_text(
        json.dumps({"measurements": [{"step": s, "loss": 1.0, "layer_metrics": metrics} for s in (0, 5)]})
    )
    torch.save(Code(), "code.pt")
    given = [str(folder) if word == "RUN" else word for word in words]
    assert said in typed(capsys, "compare", *given, code=2)


def test_a_probe_that_does_not_fit(run: DynamicsRun) -> None:
    from microtome.dynamics.probing import run_probe

    with pytest.raises(MicrotomeError, match=r"probe \(inputs \[3, 5\]\): does not fit the model"):
        run_probe(nn.Linear(4, 2), None, {"inputs": torch.zeros(3, 5)})


def test_without_states_it_says_so(tmp_path: Path) -> None:
    records = [
        {"step": 5 * i, "loss": 1.0 - i / 10, "layer_metrics": {"a": {"participation_ratio": 1.0 + i}}}
        for i in range(8)
    ]
    records[3]["layer_metrics"]["a"]["participation_ratio"] = float("nan")
    file = tmp_path / "mlp_mnist.json"
    file.write_text(json.dumps({"measurements": records}))
    result = compare(open_run(file), 0, 15)
    assert result.measurements["states"] is None
    assert "dimensionality only" in result.measurements["notes"][0]
    assert math.isnan(result.measurements["layer_changes"]["a"]["change"])
    write_comparison(result, tmp_path / "out")
    numbers = json.loads((tmp_path / "out" / "analysis_results.json").read_text())
    assert numbers["measurements"]["layer_changes"]["a"]["change"] is None


def test_rows_without_a_class_do_not_count_for_selectivity() -> None:
    x = torch.randn(40, 5, generator=torch.Generator().manual_seed(1)).cumsum(0)
    classes = torch.arange(40) // 10
    counted = torch.arange(40) % 4 > 0
    some = compare_activations(x, 2 * x, classes.where(counted, -100))  # as cross-entropy leaves them out
    alone = compare_activations(x[counted], 2 * x[counted], classes[counted])
    assert some["selectivity_before"] == pytest.approx(alone["selectivity_before"])
    assert math.isnan(compare_activations(x, x, torch.full((40,), -100))["selectivity_after"])
