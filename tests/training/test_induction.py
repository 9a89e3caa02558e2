"""The induction-head toy: sequences, network, measures, runs, and the SPD code's files of it."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from microtome.cli.main import main
from microtome.core.errors import MicrotomeError
from microtome.core.runs import RunFolder
from microtome.core.seeds import generator
from microtome.data.induction import InductionSequences
from microtome.data.loading import data_from_spec
from microtome.targets.induction import InductionTransformer
from microtome.targets.induction_config import InductionModelConfig
from microtome.targets.loading import build, load_target
from microtome.training.config import InductionTrainConfig
from microtome.training.induction_measures import accuracy_where, induction_attention, previous_attention

SMALL = InductionModelConfig(n_instances=2, vocab_size=9, seq_len=14, d_model=8, n_heads=2, n_layers=2)


def test_sequences_repeat_and_tell_where() -> None:
    data = InductionSequences(9, 14, period=(3, 6))
    x = data.batch(40, generator(0), 2)
    again = data_from_spec(data.spec()).batch(40, generator(0), 2)
    assert torch.equal(x, again) and x.shape == (2, 40, 14) and (x[..., 0] == 9).all()
    seen, following = data.predictable(x), data.next_tokens(x)
    periods = set()
    for row, mask, labels in zip(x.flatten(0, 1), seen.flatten(0, 1), following.flatten(0, 1), strict=True):
        tokens = row.tolist()
        for t in range(13):
            earlier = [j for j in range(t) if tokens[j] == tokens[t]]
            assert bool(mask[t]) == bool(earlier) and int(labels[t]) == tokens[t + 1]
            if earlier:
                periods.add(t - earlier[-1])
                assert all(tokens[j + 1] == tokens[t + 1] for j in earlier)
        assert not mask[13]
    assert periods == {3, 4, 5, 6}


def test_pairs_end_with_the_marker() -> None:
    data = InductionSequences(9, 14, "pair", prefix_window=6)
    x = data.batch(200, generator(0))[0]
    first = (x == 10).long().argmax(-1)
    assert (x[:, -1] == 10).all() and set(first.tolist()) == {1, 2, 3, 4}
    label = data.next_tokens(x)[:, -1]
    assert torch.equal(label, x.gather(1, first[:, None] + 1)[:, 0])
    assert torch.equal(data.predictable(x).nonzero()[:, 1], torch.full((200,), 13))


@pytest.mark.parametrize(
    "settings",
    [
        {"pos_encoding": "projected"},
        {"pos_encoding": "added", "use_ff": True, "use_layer_norm": True},
        {"use_pos_encoding": False},
    ],
)
def test_the_network_against_loops(settings: dict[str, object]) -> None:
    config = SMALL.model_copy(update=settings)
    net = InductionTransformer(config).reset(3)
    x = InductionSequences(9, 14, period=(3, 6)).batch(3, generator(1), 2)
    calls: list[str] = []

    def site(name: str, value: Tensor) -> Tensor:
        calls.append(name)
        return net.sites()[name].apply(value)

    out = net(x, site)
    torch.testing.assert_close(out, net(x))
    assert set(calls) == set(net.sites()) and len(calls) == len(set(calls))
    changed = x.clone()
    changed[..., 7:] = 0
    torch.testing.assert_close(net(changed)[:, :, :7], out[:, :, :7])  # nothing comes from later tokens
    torch.testing.assert_close(net.select([1])(x[1:]), out[1:])
    patterns = net.attention(x)
    assert [tuple(p.shape) for p in patterns] == [(2, 3, 2, 14, 14)] * 2
    for pattern in patterns:
        torch.testing.assert_close(pattern.sum(-1), torch.ones(2, 3, 2, 14))
        assert (pattern.triu(1) == 0).all()
    assert build(net.spec()).spec() == net.spec()
    if not config.use_ff:
        torch.testing.assert_close(_slow(net, x[0, 0], 0), out[0, 0], rtol=1e-4, atol=1e-4)


def _slow(net: InductionTransformer, tokens: Tensor, k: int) -> Tensor:
    """One sequence of instance k, head by head and position by position."""
    sites, config = net.sites(), net.config
    each = config.d_model // config.n_heads
    h = sites["token_embed"].weight[k][tokens]
    places = net.sinusoids if config.use_pos_encoding else torch.zeros_like(net.sinusoids)
    for layer in range(config.n_layers):
        q, key, v = ((h + places) @ sites[f"blocks.{layer}.attn.{p}_proj"].weight[k] for p in "qkv")
        v = h @ sites[f"blocks.{layer}.attn.v_proj"].weight[k]
        mixed = torch.zeros_like(h)
        for head in range(config.n_heads):
            part = slice(head * each, (head + 1) * each)
            for t in range(len(tokens)):
                scores = torch.stack([q[t, part] @ key[j, part] for j in range(t + 1)]) / each**0.5
                mixed[t, part] = sum(w * v[j, part] for j, w in enumerate(scores.softmax(0)))  # type: ignore
        h = h + mixed @ sites[f"blocks.{layer}.attn.out_proj"].weight[k]
    return h @ sites["unembed"].weight[k]


def test_measures_of_heads_by_hand() -> None:
    x = torch.tensor([[[5, 1, 2, 1, 2]]])
    perfect, previous = torch.zeros(1, 1, 1, 5, 5), torch.zeros(1, 1, 1, 5, 5)
    perfect[..., 3, 2] = perfect[..., 4, 3] = (
        1.0  # after the earlier 1 stands position 2, after the 2 position 3
    )
    previous[..., range(1, 5), range(4)] = 1.0
    assert induction_attention(perfect, x).item() == 1.0 and previous_attention(previous).item() == 1.0
    assert induction_attention(previous, x).item() == pytest.approx(
        1.0
    )  # a period of two: the same positions
    logits = nn.functional.one_hot(torch.tensor([[[1, 2, 1, 2, 0]]]), 8).float()
    data = InductionSequences(6, 5, period=(2, 3))
    assert accuracy_where(logits, x, data).item() == 1.0


def test_a_run_trains_and_loads(tmp_path: Path) -> None:
    words = "--steps 3 --batch_size 4 --device cpu --quiet --ih_model_config.n_instances 2 --keep 1"
    words += " --ih_model_config.vocab_size 8 --ih_model_config.seq_len 12 --ih_model_config.d_model 8"
    assert main(["train", "ih", *words.split(), "--period", "3", "6", "--out_dir", str(tmp_path / "a")]) == 0
    run = RunFolder.open(tmp_path / "a")
    assert run.kind == "train-induction" and len(run.summary["accuracy_seen"]) == 1
    assert (run.path / "attention.png").is_file()
    loaded = load_target(run.path)
    assert loaded.data is not None and loaded.data["period"] == [3, 6] and loaded.target.n_instances == 1


def test_the_spd_codes_files(tmp_path: Path) -> None:
    """nn.Linear's orientation, positions added after the projections, one pair a sequence."""
    config = SMALL.model_copy(update={"n_instances": 1, "pos_encoding": "added"})
    net = InductionTransformer(config).reset(1)
    state = {
        name: (value[0] if name == "token_embed.weight" else value[0].T).contiguous()
        for name, value in net.state_dict().items()
    }
    state |= {"pos.pe": torch.zeros(1, 14, 8), "blocks.0.attn.pos_enc.pe": torch.zeros(1, 14, 8)}
    torch.save(state, tmp_path / "ih.pth")
    (tmp_path / "ih_train_config.yaml").write_text(
        "ih_model_config: {vocab_size: 9, seq_len: 14, d_model: 8, n_heads: 2, n_layers: 2, ff_fanout: 4,"
        " use_ff: false, use_pos_encoding: true, use_layer_norm: false, device: cpu}\n"
        "steps: 100\nbatch_size: 4\nlr: 0.001\nlr_warmup: 10\nweight_decay: 0.01\nlr_schedule: constant\n"
        "seed: 42\nattention_maps_n_steps: 100\nprefix_window: 11\nwandb_project: null\n"
    )
    loaded = load_target(tmp_path / "ih.pth")
    x = InductionSequences(9, 14, period=(3, 6)).batch(3, generator(1))
    torch.testing.assert_close(loaded.target(x), net(x))
    assert loaded.data is not None
    assert (loaded.data["pattern"], loaded.data["prefix_window"]) == ("pair", 11)
    notes: list[str] = []
    ours = InductionTrainConfig.from_file(tmp_path / "ih_train_config.yaml", notes.append)
    assert (ours.lr_warmup_pct, ours.pattern) == (0.1, "pair") and len(notes) == 2


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"period": [5, 70]}, "vocab_size=64"),
        ({"ih_model_config": {"seq_len": 20}}, "nothing repeats"),
        ({"ih_model_config": {"n_heads": 3}}, "n_heads=3"),
        ({"keep": 2}, "only 1"),
    ],
)
def test_what_cannot_be_is_one_line(settings: dict[str, object], line: str) -> None:
    with pytest.raises(MicrotomeError, match=line):
        InductionTrainConfig.from_mapping(settings)
