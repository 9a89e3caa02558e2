"""The recorder in Hugging Face's Trainer and in Lightning, really run."""

import json
import warnings

import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

transformers = pytest.importorskip("transformers")
lightning = pytest.importorskip("lightning.pytorch")


def table(out, name="measures"):
    (file,) = (out / "tables").glob(f"{name}_*.parquet")
    return pd.read_parquet(file)


def tiny_gpt2():
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=20, n_positions=8, n_embd=8, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
    )
    return transformers.GPT2LMHeadModel(config)


def huggingface_losses(tmp_path, callbacks):
    rows = torch.randint(20, (32, 8), generator=torch.Generator().manual_seed(0))
    samples = [{"input_ids": row, "labels": row} for row in rows]
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path / "trainer"),
        max_steps=8,
        per_device_train_batch_size=4,
        logging_steps=1,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = transformers.Trainer(tiny_gpt2(), arguments, train_dataset=samples, callbacks=callbacks)
    trainer.train()
    return [row["loss"] for row in trainer.state.log_history if "loss" in row]


@pytest.mark.filterwarnings("ignore")
def test_hugging_face_trainer(tmp_path):
    from microtome.dynamics.callbacks.huggingface import RecorderCallback

    ids = torch.randint(20, (5, 8), generator=torch.Generator().manual_seed(1))
    probe = {"input_ids": ids, "labels": ids, "attention_mask": torch.ones_like(ids)}
    callback = RecorderCallback(probe, tmp_path / "run", when="every(4)")
    bare = huggingface_losses(tmp_path, [])
    assert huggingface_losses(tmp_path, [callback]) == bare
    assert callback.recorder.failure is None
    facts = json.loads((tmp_path / "run" / "recording.json").read_text())
    assert facts["layers"][0] == "transformer.wte"
    assert "transformer.h.1.mlp.c_proj" in facts["layers"]
    assert facts["rows"]["transformer.h.0.attn.c_attn"].startswith("[5, 8, 24] -> [40, 24]")
    assert table(tmp_path / "run").step.unique().tolist() == [0, 4, 8]
    scalars = table(tmp_path / "run", "scalars").set_index("step")
    assert scalars.loss.dropna().tolist() == pytest.approx(bare)
    assert scalars.probe_loss.notna().sum() == 3  # the model's own loss
    assert (tmp_path / "run" / "summary.json").exists()


class Module(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.2), nn.Linear(6, 2))
        self.seen = []

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, index):
        loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
        self.seen.append(loss.item())
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def lightning_losses(tmp_path, callbacks):
    torch.manual_seed(0)
    module = Module()
    x, y = torch.randn(32, 4), torch.randint(2, (32,))
    trainer = lightning.Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=callbacks,
        default_root_dir=tmp_path,
    )
    trainer.fit(module, DataLoader(TensorDataset(x, y), batch_size=8))
    return module.seen


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("part", [None, "net"])
def test_lightning(tmp_path, part):
    from microtome.dynamics.callbacks.lightning import RecorderCallback

    probe = torch.randn(10, 4, generator=torch.Generator().manual_seed(1))
    callback = RecorderCallback(
        probe, tmp_path / "run", part=part, when="every(4)", labels=torch.arange(10) % 2
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bare = lightning_losses(tmp_path, [])
        assert lightning_losses(tmp_path, [callback]) == bare
    assert callback.recorder.failure is None
    layers = json.loads((tmp_path / "run" / "recording.json").read_text())["layers"]
    assert layers == (["net.0", "net.2"] if part is None else ["0", "2"])
    assert table(tmp_path / "run").step.unique().tolist() == [0, 4, 8]
    scalars = table(tmp_path / "run", "scalars").set_index("step")
    assert scalars.loss.dropna().tolist() == bare
    assert scalars.probe_accuracy.notna().sum() == 3
