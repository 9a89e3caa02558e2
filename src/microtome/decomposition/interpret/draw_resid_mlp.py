"""Pictures of residual MLPs (and of how any toy model answers to its features), from stored arrays."""

import numpy as np

from microtome.decomposition import plots
from microtome.decomposition.interpret.contributions import (
    LayerContributions,
    correlation,
    layer_contributions,
    seen_through_embedding,
)
from microtome.decomposition.interpret.stored import (
    LeftOut,
    Picture,
    Pictures,
    Stored,
    resid_mlp_only,
)
from microtome.decomposition.picture_data import join_factors

MAX_RESIDUAL_ROWS = 4


def _embedding(stored: Stored) -> tuple[np.ndarray, np.ndarray]:
    arrays = stored.arrays("embedding")
    return arrays["W_E"][stored.instance], arrays["W_U"][stored.instance]


def _layers(stored: Stored) -> dict[str, LayerContributions]:
    resid_mlp_only(stored)
    found = layer_contributions(*stored.factors(), *_embedding(stored), stored.method)
    if not found:
        raise LeftOut("no layer has both of its matrices decomposed")
    return found


def resid_mlp_weights(stored: Stored) -> Pictures:
    layers = _layers(stored)
    n = len(next(iter(layers.values())).target)
    shown = stored.config.chosen_features(n, list(range(10)))
    names = [" / ".join(str(layer.component[i]) for layer in layers.values()) for i in shown]
    figure = plots.neuron_contributions(
        {name: layer.target[shown] for name, layer in layers.items()},
        {name: layer.best[shown] for name, layer in layers.items()},
        names,
        feature_names=[str(i) for i in shown],
    )
    yield f"resid_mlp_weights_{len(layers)}layers", figure


def neuron_contribution_pairs(stored: Stored) -> Pictures:
    layers = _layers(stored)
    figure = plots.neuron_contribution_pairs(
        {name: layer.target for name, layer in layers.items()},
        {name: layer.best for name, layer in layers.items()},
        {name: layer.correlation for name, layer in layers.items()},
    )
    yield "neuron_contribution_pairs", figure


def relu_contributions(stored: Stored) -> Pictures:
    layers = _layers(stored)
    rows = {
        "target": [layer.target for layer in layers.values()],
        "sum of all components": [layer.total for layer in layers.values()],
    }
    if stored.method == "apd":
        own = [layer.every.sum(axis=0) for layer in layers.values()]
        rows["each component with itself (no cross terms)"] = own
        total = rows["sum of all components"]
        rows["cross terms only"] = [t - o for t, o in zip(total, own, strict=True)]
    else:
        rows["best component of each feature"] = [layer.best for layer in layers.values()]
    for name, by_neuron in (("relu_contributions", True), ("feature_contributions", False)):
        yield name, plots.relu_contributions(rows, by_neuron=by_neuron)


def virtual_weights(stored: Stored) -> Pictures:
    resid_mlp_only(stored)
    targets, left, right = stored.factors()
    embed, unembed = _embedding(stored)
    summed = {site: join_factors(left[site], right[site]).sum(axis=0) for site in targets}
    figure = plots.virtual_weights(
        seen_through_embedding(targets, embed, unembed),
        seen_through_embedding(summed, embed, unembed),
        embed @ unembed,
    )
    yield "virtual_weights", figure


def _models(stored: Stored, prefix: str) -> dict[str, np.ndarray]:
    found = stored.shown("responses", prefix)
    chosen = "chosen components" if stored.method == "spd" else "top-1 component"
    names = {"target": "target", "chosen": chosen, "all_components": "all components"}
    return {words: found[name] for name, words in names.items()}


def _label(stored: Stored, values: np.ndarray) -> np.ndarray | None:
    """What each feature's own output should be at these values, read off its stored curve."""
    curves = stored.shown("responses", "curve")
    if "label" not in curves:
        return None
    at = stored.arrays("responses")["curve_values"]
    return np.array([np.interp(v, at, curve) for v, curve in zip(values, curves["label"], strict=True)])


def individual_feature_responses(stored: Stored) -> Pictures:
    values = stored.arrays("responses")["spread_values"]
    figure = plots.individual_feature_responses(
        _models(stored, "one"),
        _models(stored, "spread"),
        values,
        one_label=_label(stored, np.ones(len(values))),
        spread_label=_label(stored, values),
        subtract_inputs=stored.kind == "resid_mlp",
    )
    yield "individual_feature_responses", figure


def _prefix(stored: Stored) -> str:
    return "resid_mlp" if stored.kind == "resid_mlp" else "tms"


def _suffix(stored: Stored) -> str:
    n_layers = sum(site.endswith("mlp_in") for site in stored.shown("weights", "target"))
    return f"_{n_layers}layers" if stored.kind == "resid_mlp" else ""


def feature_response_single(stored: Stored) -> Pictures:
    one, curves = stored.shown("responses", "one"), stored.shown("responses", "curve")
    n = len(one["target"])
    values = stored.arrays("responses")["curve_values"]
    names = {"target": "target", "chosen": "chosen components", "label": "label"}
    for index, feature in enumerate(stored.config.chosen_features(n, [42 if n > 42 else 0])[:8]):
        outputs = {"target": one["target"][feature], "chosen components": one["chosen"][feature]}
        figure = plots.response_and_curve(
            values, outputs, {names[k]: v[feature] for k, v in curves.items()}, feature
        )
        end = "" if index == 0 else f"_{feature}"
        yield f"{_prefix(stored)}_feature_response_single{_suffix(stored)}{end}", figure


def feature_response_multi(stored: Stored) -> Pictures:
    curves = stored.shown("responses", "curve")
    values = stored.arrays("responses")["curve_values"]
    one = stored.shown("responses", "one")
    for model, words, end in (("target", "target", ""), ("chosen", "chosen components", "_components")):
        figure = plots.responses_and_curves(
            one[model], values, curves[model], curves.get("label"), model=words
        )
        yield f"{_prefix(stored)}_feature_response_multi{_suffix(stored)}{end}", figure


def feature_response_with_subnets(stored: Stored) -> Pictures:
    arrays = {
        name: value if name == "features" else value[stored.instance]
        for name, value in stored.arrays("ablations").items()
    }
    for index, feature in enumerate(int(f) for f in arrays["features"]):
        bands = {
            words: (arrays[f"{name}_mean"][index], arrays[f"{name}_sd"][index])
            for name, words in (("scrubbed", "scrubbed"), ("anti_scrubbed", "anti-scrubbed"))
        }
        figure = plots.feature_response_with_subnets(arrays["target"][index], bands, feature)
        yield f"feature_response_with_subnets_{feature}", figure


def signal_to_noise(stored: Stored) -> Pictures:
    arrays = stored.arrays("signal_to_noise")
    opposite = arrays["opposite"][stored.instance] if "opposite" in arrays else None
    yield "2d_snr", plots.signal_to_noise(arrays["equal"][stored.instance], opposite)


def resid_vs_mlp_out(stored: Stored) -> Pictures:
    resid_mlp_only(stored)
    one = stored.shown("responses", "one")
    n = len(one["target"])
    shown = stored.config.chosen_features(n, list(range(MAX_RESIDUAL_ROWS)))[:MAX_RESIDUAL_ROWS]
    direct = one["direct"]
    added = {"target's MLPs": one["target"] - direct, "chosen components": one["chosen"] - direct}
    related = {name: residual_correlation(values, direct)[shown] for name, values in added.items()}
    models = {name: values[shown] for name, values in added.items()}
    yield "resid_vs_mlp_out", plots.resid_vs_mlp_out(direct[shown], models, shown, related)


def residual_correlation(added: np.ndarray, direct: np.ndarray) -> np.ndarray:
    """Per feature, over the other outputs: correlation of what is added with the residual stream's part."""
    others = ~np.eye(*added.shape, dtype=bool)
    return np.array([correlation(a[o], d[o]) for a, d, o in zip(added, direct, others, strict=True)])


def _losses(stored: Stored, prefix: str) -> dict[str, np.ndarray]:
    return stored.shown("feature_losses", prefix)


def per_feature_performance(stored: Stored) -> Pictures:
    losses = _losses(stored, "alone")
    if not np.isfinite(losses["target"]).any():
        raise LeftOut("no input had exactly one feature on; raise n_samples")
    yield "per_feature_performance", plots.feature_losses(losses, note=" (inputs as in training)")


def loss_by_feature(stored: Stored) -> Pictures:
    losses = _losses(stored, "sweep")
    for name in [name for name in losses if name != "target"]:
        figure = plots.feature_losses(
            {"target": losses["target"], name: losses[name]}, note=" (even sweep of its values)"
        )
        yield f"loss_by_feature_{name}", figure


def avg_components_scatter(stored: Stored) -> Pictures:
    arrays = stored.arrays("feature_losses")
    masking = "masked by causal importance" if stored.method == "spd" else "top 1 of each input"
    components = stored.shown("feature_losses", "components")
    error = arrays["to_target"][stored.instance]
    if not np.isfinite(error).any():
        raise LeftOut("no input had exactly one feature on; raise n_samples")
    yield "avg_components_scatter", plots.avg_components_scatter(error, components, masking=masking)


PICTURES = (
    Picture("resid_mlp_weights", "Which neurons carry each feature: in the target, in its best component?",
            ("weights", "embedding"), resid_mlp_weights),
    Picture("neuron_contribution_pairs", "Does the best component of a feature use the target's neurons?",
            ("weights", "embedding"), neuron_contribution_pairs),
    Picture("virtual_weights", "What do the weights look like from feature to neuron to feature?",
            ("weights", "embedding"), virtual_weights),
    Picture("relu_contributions", "Which features go through each neuron, which neurons serve each feature?",
            ("weights", "embedding"), relu_contributions, basic=False),
    Picture("individual_feature_responses", "What comes out when one feature is on?",
            ("responses",), individual_feature_responses, basic=False),
    Picture("feature_response_single", "How does one output follow its input (the ReLU curve)?",
            ("responses",), feature_response_single, basic=False),
    Picture("feature_response_multi", "How do all outputs follow their inputs?",
            ("responses",), feature_response_multi, basic=False),
    Picture("feature_response_with_subnets", "What happens to one feature's output when others are ablated?",
            ("ablations",), feature_response_with_subnets, basic=False),
    Picture("per_feature_performance", "Is each feature computed as well as in the target?",
            ("feature_losses",), per_feature_performance, basic=False),
    Picture("loss_by_feature", "The same over each feature's whole range of values.",
            ("feature_losses",), loss_by_feature, basic=False),
    Picture("avg_components_scatter", "Do features that need more components come out worse?",
            ("feature_losses",), avg_components_scatter, basic=False),
    Picture("resid_vs_mlp_out", "What do the MLPs add to what the residual stream carries?",
            ("responses",), resid_vs_mlp_out, basic=False),
    Picture("2d_snr", "Does the target separate two features that are on together?",
            ("signal_to_noise",), signal_to_noise, basic=False),
)  # fmt: skip
