"""The commands that read a run's mechanisms, and the page of its components."""

import csv
import json
import re
from pathlib import Path

import pytest
import torch
from known_mechanisms import Tokens, token_decomposition

from microtome.cli.main import main
from microtome.core.runs import RunFolder
from microtome.decomposition.mechanisms.clustering import cluster
from microtome.decomposition.mechanisms.examples import Examples, harvest
from microtome.decomposition.mechanisms.store import write_lines
from microtome.explorer.mechanisms import write_examples_page
from microtome.explorer.report import run_report

Captured = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short decomposition of a digits classifier of random weights."""
    from microtome.core.tensor_files import write_torch
    from microtome.decomposition import decompose as decompose_module
    from microtome.decomposition.config import config_from_mapping
    from microtome.decomposition.decompose import run_config
    from microtome.targets.config import MLPModelConfig
    from microtome.targets.mlp import MLP
    from microtome.training.config import DigitsTrainConfig

    folder = tmp_path_factory.mktemp("digits")
    write_torch(
        folder / "digits.pth", MLP(MLPModelConfig(sizes=(64, 12, 10), n_instances=2)).reset(1).state_dict()
    )
    DigitsTrainConfig(hidden_sizes=(12,), steps=1).to_file(folder / "digits_train_config.yaml")
    config = config_from_mapping(
        {
            "method": "spd",
            "C": 6,
            "steps": 20,
            "batch_size": 32,
            "lr": 1e-3,
            "n_ci_mlp_neurons": 4,
            "importance_minimality_coeff": 1e-3,
            "pnorm": 1.0,
            "output_loss_type": "kl",
            "print_freq": 20,
            "target_module_patterns": ["*"],
            "task_config": {"task_name": "digits"},
            "pretrained_model_path": str(folder / "digits.pth"),
        }
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decompose_module, "draw_all", lambda run: [])
        return run_config(config, out_dir=folder / "run", progress=False).path


def says(words: list[str], capsys: Captured) -> str:
    assert main(words) == 0, capsys.readouterr().err
    return capsys.readouterr().out


SHORT = ["--quiet", "--n_batches", "3", "--batch_size", "20", "--threshold", "0.01"]


def test_examples(run: Path, capsys: Captured):
    out = says(["decompose", "examples", str(run), *SHORT], capsys)
    records = [json.loads(line) for line in (run / "results/examples.jsonl").read_text().splitlines()]
    assert records and f"{len(records)} of 12 components fire on 60 inputs" in out
    assert all(len(one["values"]) == 64 for r in records for one in r["examples"])
    arrays = RunFolder.open(run).load_arrays("examples")
    assert arrays["density/layers.0"].shape == (6,) and arrays["example_input/layers.1"].shape == (
        6,
        4,
        6,
        64,
    )
    assert str(run / "examples.html") in out and (run / "examples.html").is_file()
    says(["decompose", "examples", str(run), *SHORT, "--instance", "1", "--no-page"], capsys)
    assert (run / "results/examples_1.jsonl").is_file() and not (run / "examples_1.html").exists()


def test_attributions(run: Path, capsys: Captured):
    out = says(["decompose", "attributions", str(run), *SHORT, "--n_edges", "5"], capsys)
    with (run / "results/component_attributions.csv").open() as table:
        rows = list(csv.DictReader(table))
    arrays = RunFolder.open(run).load_arrays("component_attributions")
    assert len(rows) == 5 and f"{rows[0]['source']} -> {rows[0]['target']}" in out
    assert float(rows[0]["absolute"]) == arrays["absolute"].max()
    assert [float(r["absolute"]) for r in rows] == sorted((float(r["absolute"]) for r in rows), reverse=True)
    assert arrays["signed"].shape == (len(arrays["sources"]), len(arrays["targets"]))
    assert (run / "plots/component_attributions.png").is_file()


def test_cluster_and_ablate_what_was_found(run: Path, capsys: Captured):
    out = says(["decompose", "cluster", str(run), *SHORT, "--alpha", "0.1"], capsys)
    told = RunFolder.open(run).load_json("clusters.json")
    assert "Merging saves" in out and told["clusters"] and told["n_inputs"] == 60
    arrays = RunFolder.open(run).load_arrays("clusters")
    first = told["clusters"][0]
    assert first["components"] == arrays["components"][arrays["labels"] == 0].tolist()
    pairs, names, weights = (arrays[f"run0/{part}"] for part in ("pairs", "names", "weights"))
    assert len(pairs) == len(names) - 1 == len(arrays["components"]) - 1
    assert told["bits"]["names"] + told["bits"]["weights"] == pytest.approx((names + weights).min())
    assert (run / "plots/component_clusters.png").is_file() and (run / "plots/merge_costs.png").is_file()
    says(["decompose", "ablate", str(run), *SHORT, "--cluster", "0", "--n_random", "3"], capsys)
    out = says(
        ["decompose", "ablate", str(run), *SHORT, "--components", "layers.0:1,layers.1:2", "--n_random", "3"],
        capsys,
    )
    assert "accuracy, without them" in out and "2 components, 60 inputs" in out
    lines = [json.loads(line) for line in (run / "ablations.jsonl").read_text().splitlines()]
    assert [line["components"] for line in lines] == [first["components"], ["layers.0:1", "layers.1:2"]]
    says(["decompose", "cluster", str(run), *SHORT, "--method", "stochastic", "--n_runs", "3"], capsys)
    told = RunFolder.open(run).load_json("clusters.json")
    assert set(told["between_runs"]) == {"pairs", "adjusted_rand", "adjusted_mutual_information"}
    assert len(told["bits_of_runs"]) == 3 and told["bits_of_runs"] == sorted(told["bits_of_runs"])


def test_what_cannot_be_is_told_in_one_line(run: Path, capsys: Captured, tmp_path: Path):
    for words, told in [
        ([str(run), "--components", "layers.0:99"], "use 0 to 5"),
        ([str(run)], "--components site:3,site:7 or --cluster 0"),
        ([str(run), "--cluster", "0", "--components", "layers.0:1"], "leave one out"),
        ([str(run), "--cluster", "777"], "there are"),
        ([str(run), "--instance", "5", "--components", "layers.0:1"], "use 0 to 1"),
        ([str(run), "--instance", "1", "--cluster", "0"], "run `microtome decompose cluster"),
        ([], "takes one run folder"),
        ([str(tmp_path)], ""),
    ]:
        assert main(["decompose", "ablate", *words]) == 2
        line = capsys.readouterr().err
        assert told in line and line.count("\n") == 1
    assert main(["decompose", "cluster", str(run), "--threshold", "0.9999", "--n_batches", "1"]) == 2
    assert "lower it" in capsys.readouterr().err
    assert main(["decompose", "cluster", str(run), "--tresh", "0.5"]) == 2
    assert "--threshold" in capsys.readouterr().err


def test_pictures_of_mechanisms_have_captions_in_the_report(run: Path, capsys: Captured):
    says(["decompose", "attributions", str(run), *SHORT], capsys)
    page = run_report(RunFolder.open(run)).html()
    assert "passes on to later ones" in page


class Words:
    """A tokenizer whose tokens would be markup on a page."""

    ALL = ("<b>", "</script><script>alert(1)</script>", "\"&'", "\n", " é", "")

    def decode(self, ids):
        return self.ALL[ids[0]]


def text_page(tmp_path: Path, megabytes: float = 20.0) -> str:
    ids = torch.randint(6, (40, 12), generator=torch.Generator().manual_seed(0))
    found = harvest(token_decomposition(), data=Tokens(ids), n_batches=5, batch_size=8, min_count=1)
    found = Examples(found.harvest, Words())
    write_lines(tmp_path / "e.jsonl", found.components())
    return write_examples_page(tmp_path / "e.jsonl", tmp_path / "e.html", "<i>run</i>", megabytes).read_text()


def embedded(page: str) -> dict:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    assert found is not None
    return json.loads(found[1])


def test_page_holds_every_component_and_nothing_of_it_is_markup(tmp_path: Path):
    page = text_page(tmp_path)
    data = embedded(page)
    assert sorted(data["words"]) == sorted(Words.ALL)
    found = {(site, c) for site, c, *_ in data["components"]}
    assert found == {(s, c) for s in ("up", "down") for c in range(6)}
    assert len(data["components"]) == 12 and "12 components that fire" in page
    assert page.count("<script") == 2 and "alert(1)</script>" not in page and "&lt;i&gt;run" in page
    assert "://" not in page and "innerHTML" not in page and "default-src 'none'" in page
    site, number, density, _, lists, partners, examples, _ = data["components"][0]
    tops = {title: data["words"][entries[0][0]] for title, entries in lists.items() if entries}
    assert tops["tokens_by_importance"] == Words.ALL[number] and site in ("up", "down")
    assert all(len(one[5]) == len(one[6]) for one in examples) and density < 1 and partners


def test_a_page_that_grows_too_large_says_what_it_leaves_out(tmp_path: Path):
    whole = text_page(tmp_path)
    page = text_page(tmp_path, megabytes=(len(whole) - 4000) / 1e6)
    shown = len(embedded(page)["components"])
    assert 0 < shown < 12 and f"{12 - shown} more in e.jsonl" in page


def test_results_in_python(tmp_path: Path):
    ids = torch.randint(6, (40, 12), generator=torch.Generator().manual_seed(0))
    d = token_decomposition()
    clusters = cluster(d, data=Tokens(ids), n_batches=5, batch_size=8)
    assert clusters.n_clusters == 6 and clusters.frame()["size"].tolist() == [2] * 6
    assert {tuple(row) for row in clusters.frame()["components"]} == {
        (f"up:{t}", f"down:{t}") for t in range(6)
    }
    assert clusters.saved() > 0.3 > max(clusters.saved_by_chance())
    assert "<table" in clusters._repr_html_()
    del tmp_path
