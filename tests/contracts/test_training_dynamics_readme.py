"""What the README of the original training-dynamics infrastructure tells its users to type, typed.

On a folder of experiments laid out as the original's: small made-up runs in its JSON format, analysed the
original way.
"""

import gzip
import json
import math
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

import microtome
from microtome.cli.main import main
from microtome.compat import phase2_infrastructure as old
from microtome.core.errors import MicrotomeError

COMPAT = Path(microtome.__file__).parent / "compat"
LAYERS = {
    "transformer_deep_mnist": [
        "input_proj",
        *(f"transformer.layers.{i}.linear{k}" for i in range(6) for k in (1, 2)),
        "fc",
    ],
    "cnn_deep_mnist": ["conv_layers.0", "conv_layers.3", "conv_layers.6", "fc"],
    "mlp_narrow_mnist": ["network.0", "network.2", "network.10"],
}


def original_run(name: str, seed: int) -> dict[str, Any]:
    """A run of 400 records as the original tracker wrote it, its stable rank 1 up to rounding."""
    rng = np.random.default_rng(seed)
    records = []
    for index in range(400):
        metrics = {
            layer: {
                "stable_rank": 1 - float(rng.integers(1, 40)) * 2.0**-40,
                "participation_ratio": 3 + float(rng.normal()) / 10 + (place + 1) * index / 400,
                "effective_rank_90": float(rng.integers(2, 5)),
                "nuclear_norm_ratio": 2 + float(rng.normal()) / 10,
            }
            for place, layer in enumerate(LAYERS[name])
        }
        records.append(
            {
                "step": 5 * index,
                "epoch": 1 + index // 10,
                "loss": 2 * math.exp(-index / 80) + 0.2 * float(rng.random()),
                "grad_norm": float(rng.random()),
                "layer_metrics": metrics,
            }
        )
    architecture, _, dataset = name.rpartition("_")
    return {
        "arch_name": architecture,
        "dataset_name": dataset,
        "num_steps": 2000,
        "measurement_interval": 5,
        "elapsed_time": 1.0,
        "final_accuracy": 0.9,
        "architecture_params": {"depth": 4, "width": 32, "num_params": 1000, "connectivity": "x"},
        "measurements": records,
    }


@pytest.fixture(scope="session")
def experiments(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``experiments/`` with raw runs, and the results of the original analysis made from them."""
    folder = tmp_path_factory.mktemp("home") / "experiments"
    runs = folder / "new" / "results" / "phase1_full"
    runs.mkdir(parents=True)
    for seed, name in enumerate(LAYERS):
        text = json.dumps(original_run(name, seed))
        if seed:
            (runs / f"{name}.json").write_text(text)
        else:
            (runs / f"{name}.json.gz").write_bytes(gzip.compress(text.encode()))
    from microtome.dynamics.original.analyse import analyse_folder, write

    write(analyse_folder(runs), folder / "mechanistic_interpretability" / "results")
    return folder


@pytest.fixture(autouse=True)
def no_windows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plt, "show", lambda *a, **k: None)


def run_snippet(snippet: str, experiments: Path, **space: Any) -> dict[str, Any]:
    """A snippet as it stands in the README, with our module's name and this machine's folder in it."""
    code = snippet.replace("from phase2_infrastructure", "from microtome.compat.phase2_infrastructure")
    code = code.replace("/home/user/ndt/experiments", str(experiments))
    exec(compile(code, "README", "exec"), space)
    return space


BASIC = """
from pathlib import Path
from phase2_infrastructure import Phase2Infrastructure

# Initialize
experiments_dir = Path('/home/user/ndt/experiments')
infra = Phase2Infrastructure(experiments_dir)

# Get experiment summary
summary = infra.get_experiment_summary('transformer_deep_mnist')
print(f"Experiment has {summary['num_jumps']} jumps")

# Identify critical moments
moments = infra.identify_moments('transformer_deep_mnist', num_jumps=5)

# Compare two moments
result = infra.compare_representations(moments[0], moments[2])
print(f"Loss changed by: {result.measurements['loss_change']:.4f}")

# Access layer-wise changes
for layer, changes in result.measurements['layer_changes'].items():
    print(f"{layer}: {changes['change']:.3f}")
"""


def test_basic_usage(experiments: Path, capsys: pytest.CaptureFixture[str]) -> None:
    space = run_snippet(BASIC, experiments)
    said = capsys.readouterr().out.splitlines()
    jumps = space["infra"].jump_data
    own = jumps[jumps["experiment"] == "transformer_deep_mnist"]
    assert said[0] == f"Experiment has {len(own)} jumps" and len(own) > 50
    assert [line.split(":")[0] for line in said[2:]] == LAYERS["transformer_deep_mnist"]
    # the moments: around the largest jumps of the table, its steps taken as they stand
    moments = space["moments"]
    assert len(moments) == 15 and {m.experiment_name for m in moments} == {"transformer_deep_mnist"}
    assert [m.moment_type for m in moments[:3]] == ["before_jump", "during_jump", "after_jump"]
    largest = own.sort_values("magnitude", ascending=False, kind="stable").head(5)
    assert [m.step for m in moments[1::3]] == largest["step"].tolist()
    assert all(m.step == max(0, moments[i + 1].step - 10) for i, m in enumerate(moments) if i % 3 == 0)
    assert [m.step for m in moments[2::3]] == [s + 10 for s in largest["step"]]
    assert moments[0].jump_info["magnitude"] == largest["magnitude"].iloc[0]
    # the comparison: the records nearest to those steps
    run = original_run("transformer_deep_mnist", 0)["measurements"]
    before, after = (min(run, key=lambda r: abs(r["step"] - moments[i].step)) for i in (0, 2))
    found = space["result"].measurements
    assert (found["step_before"], found["step_after"]) == (before["step"], after["step"])
    assert found["loss_change"] == pytest.approx(after["loss"] - before["loss"])
    for layer, changes in found["layer_changes"].items():
        pair = [r["layer_metrics"][layer]["stable_rank"] for r in (before, after)]
        assert list(changes) == ["before", "after", "change", "relative_change"]
        assert [changes["before"], changes["after"]] == pair
        assert changes["relative_change"] == pytest.approx((pair[1] - pair[0]) / pair[0])


def test_summary_keys(experiments: Path) -> None:
    summary = old.Phase2Infrastructure(str(experiments)).get_experiment_summary("cnn_deep_mnist")
    assert list(summary) == ["experiment", "num_jumps", "jump_summary", "critical_periods"]
    assert list(summary["jump_summary"]) == ["mean_magnitude", "mean_speed", "phases"]
    assert sum(summary["jump_summary"]["phases"].values()) == summary["num_jumps"]
    assert summary["critical_periods"]["experiment"] == "cnn_deep_mnist"
    assert 0 <= summary["critical_periods"]["max_coordination"] <= 1


TOOLS = """
from phase2_infrastructure import MeasurementTools, VisualizationTools
import numpy as np

measurements = MeasurementTools()
viz = VisualizationTools()

# Analyze attention patterns (example with dummy data)
attention = np.random.rand(32, 8, 64, 64)  # [batch, heads, seq, seq]
entropy = measurements.attention_entropy(attention)
specialization = measurements.attention_specialization(attention)

print(f"Mean entropy: {specialization['mean_entropy']:.3f}")
print(f"Specialization index: {specialization['specialization_index']:.3f}")

# Compare weight changes
weights_before = np.random.randn(64, 128)
weights_after = weights_before + np.random.randn(64, 128) * 0.1
changes = measurements.weight_change_magnitude(weights_before, weights_after)

print(f"Cosine similarity: {changes['cosine_similarity']:.3f}")
print(f"Relative change: {changes['relative_change']:.3f}")
"""


def test_direct_tool_usage(experiments: Path, capsys: pytest.CaptureFixture[str]) -> None:
    space = run_snippet(TOOLS, experiments)
    said = dict(line.split(": ") for line in capsys.readouterr().out.splitlines())
    assert float(said["Mean entropy"]) == pytest.approx(space["entropy"], abs=1e-3)
    assert 4.0 < space["entropy"] < math.log(64), "random scores are nearly even"
    assert float(said["Cosine similarity"]) == pytest.approx(0.995, abs=2e-3)
    assert float(said["Relative change"]) == pytest.approx(0.1, abs=0.01)
    assert set(space["specialization"]) == {
        "mean_entropy",
        "min_entropy",
        "max_entropy",
        "entropy_std",
        "specialization_index",
    }
    assert set(space["changes"]) == {
        "l2_norm",
        "relative_change",
        "max_change",
        "mean_change",
        "cosine_similarity",
    }


MEASURES = """
entropy = measurements.attention_entropy(attention_weights)
specialization = measurements.attention_specialization(attention_weights)
similarity = measurements.cosine_similarity(weights_before, weights_after)
change_stats = measurements.weight_change_magnitude(weights_before, weights_after)
sparsity = measurements.activation_sparsity(activations)
selectivity = measurements.activation_selectivity(activations, labels)
"""


@pytest.mark.parametrize("make", [np.asarray, torch.tensor])
def test_measurement_functions(make: Any, experiments: Path) -> None:
    given = {
        "attention_weights": make(np.broadcast_to(np.eye(4), (2, 3, 4, 4)).copy()),
        "weights_before": make(np.eye(3)),
        "weights_after": make(2 * np.eye(3)),
        "activations": make(np.array([[0.0, 1.0], [0.05, 3.0], [0.5, 2.0]])),
        "labels": make(np.array([0, 0, 2])),
    }
    if make is torch.tensor:
        given["attention_weights"].requires_grad_()
    space = run_snippet(MEASURES, experiments, measurements=old.MeasurementTools(), **given)
    assert space["entropy"] == 0 and space["specialization"]["specialization_index"] == 0
    assert space["similarity"] == pytest.approx(1) and space["change_stats"]["relative_change"] == 1
    assert space["sparsity"] == pytest.approx(1 / 3) and space["selectivity"].shape == (2, 3)


def test_visualization_tools(tmp_path: Path) -> None:
    viz = old.VisualizationTools()
    attention = torch.rand(2, 3, 6, 6, requires_grad=True).softmax(-1)
    tokens = list("abcdef")
    calls: dict[str, tuple[Any, tuple[Any, ...]]] = {
        "one_attention_pattern": (viz.plot_attention_pattern, (attention, tokens, 1)),
        "heads": (viz.plot_attention_heads_comparison, (attention, attention)),
        "one_head": (viz.plot_attention_heads_comparison, (attention, attention, 1)),
        "conv_filter_viz": (viz.plot_filter_visualization, (torch.randn(6, 3, 3, 3), 1)),
        "activations": (viz.plot_activation_heatmap, (np.random.randn(9, 5), np.arange(9) % 3)),
        "x_entropy_evolution": (viz.plot_entropy_evolution, ([2.0, 1.0, 0.5], [0, 10, 20], [10, 15])),
    }
    for name, (plot, arguments) in calls.items():
        plot(*arguments, save_path=tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").read_bytes()[:4] == b"\x89PNG", name
        assert plot(*arguments) is not None, "shown"


WEEK_3_4 = """
# 1. Select experiment
experiment = 'transformer_deep_mnist'

# 2. Identify representative jumps
moments = infra.identify_moments(experiment, num_jumps=5)

# 3. For each jump, analyze before/after
for i in range(0, len(moments), 3):  # Every 3rd is a complete before/during/after
    before = moments[i]
    after = moments[i+2]

    # Compare representations
    result = infra.compare_representations(before, after)

    # Extract dimensionality changes
    layer_changes = result.measurements['layer_changes']
"""
WEEK_5_6 = """
# Compare CNN and MLP
cnn_moments = infra.identify_moments('cnn_deep_mnist', num_jumps=3)
mlp_moments = infra.identify_moments('mlp_narrow_mnist', num_jumps=3)

# Analyze jump discreteness
for cnn_m, mlp_m in zip(cnn_moments, mlp_moments):
    # Load measurements
    cnn_data = infra.checkpoint_manager.load_measurements_at_step(
        cnn_m.experiment_name, cnn_m.step
    )
    mlp_data = infra.checkpoint_manager.load_measurements_at_step(
        mlp_m.experiment_name, mlp_m.step
    )
"""


def test_workflows(experiments: Path) -> None:
    infra = old.Phase2Infrastructure(experiments)
    space = run_snippet(WEEK_3_4, experiments, infra=infra)
    assert list(space["layer_changes"]) == LAYERS["transformer_deep_mnist"]
    space = run_snippet(WEEK_5_6, experiments, infra=infra)
    data = space["cnn_data"]
    run = original_run("cnn_deep_mnist", 1)["measurements"]
    assert data in run, "the record as it stands in the file"


COMPLETE = '''
#!/usr/bin/env python3
"""
Example: Analyzing transformer attention dynamics during jumps
"""

from pathlib import Path
from phase2_infrastructure import Phase2Infrastructure

def analyze_transformer_jumps():
    # Initialize
    infra = Phase2Infrastructure(Path('/home/user/ndt/experiments'))

    # Select experiment
    experiment = 'transformer_deep_mnist'

    # Get summary
    summary = infra.get_experiment_summary(experiment)
    print(f"Analyzing {experiment}")
    print(f"Total jumps: {summary['num_jumps']}")

    # Identify top 5 jumps
    moments = infra.identify_moments(experiment, num_jumps=5)

    # Analyze each jump
    results = []
    for i in range(0, len(moments), 3):
        if i+2 >= len(moments):
            break

        before = moments[i]
        after = moments[i+2]

        print(f"\\nJump at step {moments[i+1].step}")

        # Compare
        result = infra.compare_representations(before, after)

        if result:
            print(f"  Loss change: {result.measurements['loss_change']:.4f}")

            # Count layers with significant change
            significant = sum(
                1 for changes in result.measurements['layer_changes'].values()
                if abs(changes['relative_change']) > 0.01
            )
            print(f"  Layers changed significantly: {significant}")

            results.append(result)

    return results

if __name__ == '__main__':
    results = analyze_transformer_jumps()
    print(f"\\n✓ Analyzed {len(results)} jumps")
'''


def test_complete_workflow(experiments: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_snippet(COMPLETE, experiments, __name__="__main__")
    said = capsys.readouterr().out
    assert said.count("Layers changed significantly: 0") == 5, "its stable rank is 1 up to rounding"
    assert said.strip().endswith("✓ Analyzed 5 jumps")


EXTEND_MEASURES = '''
class MeasurementTools(MeasurementTools):
    @staticmethod
    def my_new_measurement(data: np.ndarray) -> float:
        """
        Docstring describing what this measures.

        Args:
            data: Input data

        Returns:
            Measurement value
        """
        # Convert to numpy if needed
        data = MeasurementTools._to_numpy(data)

        # Your analysis here
        result = np.median(data)

        return float(result)
'''
EXTEND_PLOTS = '''
class VisualizationTools(VisualizationTools):
    @staticmethod
    def plot_my_visualization(data: np.ndarray,
                             save_path: Optional[Path] = None):
        """
        Docstring describing the visualization.
        """
        # Convert to numpy
        data = MeasurementTools._to_numpy(data) if TORCH_AVAILABLE else data

        # Create plot
        plt.figure(figsize=(10, 6))
        plt.plot(data)
        plt.title('My Visualization')

        if save_path:
            plt.savefig(save_path)
            plt.close()
        else:
            plt.show()
'''


def test_extending(experiments: Path, tmp_path: Path) -> None:
    names = "from phase2_infrastructure import MeasurementTools, VisualizationTools, TORCH_AVAILABLE\n"
    names += "from pathlib import Path\nfrom typing import Optional\nimport numpy as np\n"
    space = run_snippet(names + EXTEND_MEASURES + EXTEND_PLOTS, experiments, plt=plt)
    assert space["MeasurementTools"]().my_new_measurement(torch.tensor([1.0, 2.0, 5.0])) == 2
    assert space["MeasurementTools"].attention_entropy(np.eye(3)) == 0
    space["VisualizationTools"]().plot_my_visualization([1, 2], tmp_path / "mine.png")
    assert (tmp_path / "mine.png").is_file()


def test_extending_by_registration() -> None:
    @old.MeasurementTools.register
    def middle_value(data: Any) -> float:
        return float(np.median(old.MeasurementTools._to_numpy(data)))

    assert old.MeasurementTools().middle_value([1, 2, 9]) == 2  # pyright: ignore
    old.VisualizationTools.register(lambda data, save_path=None: "drawn", name="plot_mine")
    assert old.VisualizationTools().plot_mine([1]) == "drawn"  # pyright: ignore
    with pytest.raises(MicrotomeError, match="there already"):
        old.MeasurementTools.register(middle_value, name="cosine_similarity")


def test_data_structures() -> None:
    moment = old.CriticalMoment(
        experiment_name="transformer_deep_mnist", step=343, moment_type="during_jump", jump_info=None
    )
    assert old.CriticalMoment("x", 1, "critical_period").jump_info is None
    result = old.AnalysisResult("x", moment.moment_type, {"a": 1}, {})
    assert (result.experiment, result.moment, result.measurements, result.visualizations) == (
        "x",
        "during_jump",
        {"a": 1},
        {},
    )


LINES = """Initializing Phase 2 Infrastructure...
Testing with transformer_deep_mnist...
Experiment Summary:
  Jumps: {jumps}
  Mean magnitude: 0.000000
Identifying critical moments...
Identified 9 critical moments
Comparing first two moments...
Loss change: {change:.4f}
Layers analyzed: 14
✓ Infrastructure initialized and tested successfully!
"""


def expected_lines(experiments: Path) -> str:
    infra = old.Phase2Infrastructure(experiments)
    moments = infra.identify_moments("transformer_deep_mnist", num_jumps=3)
    change = infra.compare_representations(moments[0], moments[1]).measurements["loss_change"]
    jumps = infra.get_experiment_summary("transformer_deep_mnist")["num_jumps"]
    return LINES.format(jumps=jumps, change=change)


@pytest.mark.parametrize(
    "words",
    [
        ["phase2_infrastructure.py"],
        ["phase2_infrastructure"],
        ["dynamics", "self-test"],
        ["dynamics", "self_test", "FOLDER"],
    ],
)
def test_testing(
    words: list[str], experiments: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """``cd .../experiments/mechanistic_interpretability; python3 phase2_infrastructure.py``"""
    if words[-1] == "FOLDER":
        words = [*words[:-1], str(experiments)]
    else:
        monkeypatch.chdir(experiments / "mechanistic_interpretability")
    assert main(words) == 0
    assert capsys.readouterr().out == expected_lines(experiments)


def test_the_module_runs_as_a_script(
    experiments: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["phase2_infrastructure.py", str(experiments)])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(COMPAT / "phase2_infrastructure.py"), run_name="__main__")
    assert end.value.code == 0 and "Identified 9 critical moments" in capsys.readouterr().out


WITHOUT_TORCH = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "transformers", "lightning"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocked())
import numpy as np
from microtome.cli.main import main
assert main(["phase2_infrastructure", sys.argv[1]]) == 0
from microtome.compat.phase2_infrastructure import *
from microtome.compat.phase2_infrastructure import TORCH_AVAILABLE
assert not TORCH_AVAILABLE and "torch" not in sys.modules
tools, viz = MeasurementTools(), VisualizationTools()
assert tools.attention_entropy(np.eye(4)[None, None]) == 0
assert tools.activation_selectivity(np.ones((2, 3)), np.array([0, 1])).shape == (3, 2)
viz.plot_attention_pattern(np.eye(4), save_path=sys.argv[2])
infra = Phase2Infrastructure(sys.argv[1], as_original=False)
moment = CriticalMoment("cnn_deep_mnist", 5, "critical_period")
later = CriticalMoment("cnn_deep_mnist", 1500, "critical_period")
found = infra.compare_representations(moment, later)
assert found.measurements["states"] is None and "dimensionality only" in found.measurements["notes"][0]
"""


def test_without_pytorch(experiments: Path, tmp_path: Path) -> None:
    """In a process of its own, in which torch cannot be imported, every quoted line is there."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, str(experiments), str(tmp_path / "a.png")],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    note = "Note: PyTorch not available. Some features will be limited.\n"
    assert done.stdout == note + expected_lines(experiments)
    assert (tmp_path / "a.png").is_file()


CHECKPOINTS = """
# During training, save model states at critical moments
if step in critical_steps:
    torch.save(model.state_dict(), f'checkpoint_step_{step}.pt')
"""
ACTIVATIONS = """
# Hook into forward pass to save activations
activations = {}
def hook_fn(module, input, output):
    activations[module_name] = output.detach()
"""
ATTENTION = """
# Most transformer implementations expose attention weights
outputs = model(input, output_attentions=True)
attention_weights = outputs.attentions  # List of attention tensors
"""


def test_required_for_full_investigations(experiments: Path, tmp_path: Path) -> None:
    """States saved the README's way are found, and what its hooks and attention give is measured."""
    model = torch.nn.Linear(3, 2)
    home = tmp_path / "experiments"
    shutil.copytree(experiments, home)
    folder = home / "checkpoints" / "mlp_narrow_mnist"
    folder.mkdir(parents=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run_snippet(CHECKPOINTS, experiments, model=model, step=100, critical_steps=[100], torch=torch)
    manager = old.CheckpointManager(home)
    assert manager.get_checkpoint_path("mlp_narrow_mnist", 100) == folder / "checkpoint_step_100.pt"
    torch.testing.assert_close(
        manager.load_checkpoint("mlp_narrow_mnist", 100)["weight"], model.weight.detach()
    )
    assert manager.get_checkpoint_path("mlp_narrow_mnist", 7) == folder / "step_7.pt"
    space = run_snippet(ACTIVATIONS, experiments, module_name="layer")
    handle = model.register_forward_hook(space["hook_fn"])
    model(torch.zeros(4, 3))
    handle.remove()
    assert old.MeasurementTools().activation_selectivity(
        space["activations"]["layer"], [0, 1, 0, 1]
    ).shape == (2, 2)
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=9, n_positions=8)
    config._attn_implementation = "eager"
    gpt = transformers.AutoModel.from_config(config).eval()
    space = run_snippet(ATTENTION, experiments, model=gpt, input=torch.arange(6)[None])
    assert 0 < old.MeasurementTools().attention_entropy(space["attention_weights"][0]) < math.log(6)


@pytest.mark.parametrize(
    ("what", "said"),
    [
        (lambda i: i.identify_moments("transfomer_deep_mnist"), "did you mean transformer_deep_mnist"),
        (lambda i: i.get_experiment_summary("nothing"), "no such experiment"),
        (lambda i: i.checkpoint_manager.load_measurements_at_step("x", 3), "no such experiment"),
        (lambda i: i.checkpoint_manager.load_checkpoint("cnn_deep_mnist", 3), "no state of step 3"),
        (lambda i: old.Phase2Infrastructure(i.experiments_dir / "not"), "no such folder"),
        (lambda i: i.identify_moments("cnn_deep_mnist", 0), "at least 1"),
        (
            lambda i: i.compare_representations(*reversed(i.identify_moments("cnn_deep_mnist", 1)[:2])),
            "out of order",
        ),
        (
            lambda i: i.compare_representations(
                old.CriticalMoment("cnn_deep_mnist", 5, "before_jump"),
                old.CriticalMoment("mlp_narrow_mnist", 50, "after_jump"),
            ),
            "different layers",
        ),
        (
            lambda i: i.comparison.compare_moments(
                *i.identify_moments("cnn_deep_mnist", 1)[:2], analysis_type="atention"
            ),
            "not known; choose attention",
        ),
    ],
)
def test_troubleshooting(what: Any, said: str, experiments: Path) -> None:
    with pytest.raises(MicrotomeError, match=said):
        what(old.Phase2Infrastructure(experiments))


def test_jump_data_not_found(tmp_path: Path, experiments: Path) -> None:
    shutil.copytree(experiments / "new", tmp_path / "new")
    with pytest.raises(MicrotomeError, match=r"all_jumps_detailed.csv: not there.*RUNS --as-original"):
        old.Phase2Infrastructure(tmp_path).identify_moments("cnn_deep_mnist")


def test_right_steps_on_request(experiments: Path) -> None:
    """``as_original=False``: the table's indices become the training steps they stand for."""
    right = old.CheckpointManager(experiments, as_original=False)
    wrong = old.CheckpointManager(experiments)
    jumps = old.Phase2Infrastructure(experiments).jump_data
    for a, b in zip(
        right.identify_critical_moments("cnn_deep_mnist", jumps, 2),
        wrong.identify_critical_moments("cnn_deep_mnist", jumps, 2),
        strict=True,
    ):
        index = b.jump_info["step"] if b.jump_info else 0
        assert a.step == 5 * (index + ["before_jump", "during_jump", "after_jump"].index(a.moment_type))
