"""Which features move a language model's loss: train a model and dictionaries, analyse, check by ablation.

    python examples/gradients.py [SHARE]

About three minutes on two cores; SHARE, such as 0.1, trains so much shorter. Needs `pip install
'microtome[llm]'` and no network: the text is Python's own documentation.
"""

import sys

from microtome.dictionaries.train import train_dictionaries
from microtome.dictionaries.train_config import DictionaryTrainConfig
from microtome.gradients import compare
from microtome.gradients.config import FeaturesConfig
from microtome.gradients.run import run
from microtome.training.language import train_language_model
from microtome.training.language_config import LanguageModelTrainConfig

share = float(sys.argv[1]) if len(sys.argv) > 1 else 1.0

# A small Qwen-shaped model, and one sparse autoencoder on the MLP output of each of its layers.
model = train_language_model(LanguageModelTrainConfig(steps=max(int(400 * share), 2)))
dictionaries = train_dictionaries(
    DictionaryTrainConfig(model=str(model.path), steps=max(int(600 * share), 2), batch_size=512, k=16)
)

# One forward and one backward pass per sample give the gradients of every feature of every layer.
settings = FeaturesConfig(
    model_name=str(model.path),
    sae_path=str(dictionaries.path),
    num_samples=100,
    aggregation_mode="both",
    validate_top=20,  # remove 20 features a layer, one by one, and see what the loss does
    save_outputs=True,
    device="cpu",
    check_dictionary=share == 1.0,
)
finished = run(settings)
assert finished is not None and finished.validation is not None
result = finished.result

print(result.top(5, layer=2).to_string(index=False))
for token in result.tokens[2][0]["tokens"]:
    print(f"  acts on  {token['before'][-40:]!r} -> {token['token']!r}  ({token['attribution']:+.2f} nats)")
print("\n".join(finished.validation.told()))

# How much of a ranking is noise? Analyse other samples of the same text and compare.
other = run(settings.model_copy(update={"split": "test", "validate_top": 0, "save_outputs": False}))
assert other is not None
print("\n".join(compare(result, other.result).told(5)))
print(f"\nEverything is in {finished.folder.path if finished.folder else 'memory'}")
