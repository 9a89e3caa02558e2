"""Two processes under torchrun against one."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from microtome.cli.main import main
from microtome.gradients import load


def test_two_processes_give_what_one_gives(
    model_folder: Path, saes: Path, tmp_path: Path, monkeypatch
) -> None:
    words = ["gradients", "features", "--model_name", str(model_folder), "--sae_path", str(saes)]
    words += [
        "--num_samples",
        "7",
        "--max_length",
        "32",
        "--dataset",
        "builtin",
        "--device",
        "cpu",
        "--quiet",
    ]
    words += ["--no_check_dictionary", "--save_outputs", "--no_plots", "--output_root"]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launch, "-m", "microtome", *words, str(tmp_path / "two")],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    # only the main process speaks
    assert done.stdout.count("Which score to trust") == 1, (done.stdout, done.stderr)
    assert main([*words, str(tmp_path / "one")]) == 0
    (one,), (two,) = ([load(p) for p in (tmp_path / name).iterdir()] for name in ("one", "two"))
    assert two.metadata["experiment_info"]["processes"] == 2
    assert one.metadata["positions"] == two.metadata["positions"]
    for layer, arrays in one.layers.items():
        for name, values in arrays.items():
            scale = max(np.nanmax(np.abs(values)), 1e-12)
            np.testing.assert_allclose(
                two.layers[layer][name], values, rtol=1e-4, atol=2e-5 * scale, err_msg=name
            )
    tokens = [[row["tokens"][0]["token"] for row in r.tokens[1]][:5] for r in (one, two)]
    assert tokens[0] == tokens[1]
