"""One look at a network: the rows of every layer, on the probe or on the batch it was just trained on."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from microtome.core.errors import MicrotomeError, bad_value
from microtome.dynamics.attachment import MOST_LAYERS, Taps, automatic_layers, plain_name, thinned, unwrapped
from microtome.dynamics.undisturbed import buffers_that_change, call, is_compiled, undisturbed
from microtome.hooks import first_tensor


@dataclass
class Look:
    """What was seen: rows by layer and their Gram matrices; scalars of the probe; whole activations."""

    rows: dict[str, Tensor]
    grams: dict[str, Tensor]
    scalars: dict[str, Any] = field(default_factory=dict)
    captured: dict[str, Tensor] = field(default_factory=dict)


class Looking:
    """How a network is looked at. Making one runs the probe once and settles which layers there are."""

    def __init__(
        self,
        model: nn.Module,
        probe: Any,
        labels: Tensor | None,
        layers: Literal["auto"] | Sequence[str],
        on: Literal["probe", "batch"],
        conv: Literal["mean", "flatten"],
        attention: bool,
        note: Callable[[str], None],
    ) -> None:
        if on not in ("probe", "batch"):
            raise bad_value("on", on, "not a thing to measure on", "use probe or batch")
        if on == "batch" and is_compiled(model):
            raise bad_value("on", on, "compiled code calls no hooks", "use on='probe', or do not compile")
        if on == "probe" and probe is None:
            raise bad_value("probe", probe, "nothing to measure on", "give inputs, or on='batch'")
        self.model, self.on, self.attention = unwrapped(model), on, attention
        self.automatic = isinstance(layers, str)
        if isinstance(layers, str) and layers != "auto":
            raise bad_value("layers", layers, "not a list of names", "write [name, ...] or auto")
        names = automatic_layers(self.model) if self.automatic else list(layers)
        if not names:
            raise bad_value("layers", layers, "the model has no layer with a matrix", "name some modules")
        self.taps = Taps(self.model, names, conv)
        self.device = next((p.device for p in self.model.parameters()), torch.device("cpu"))
        self.probe = None if probe is None else self._as_model_takes(probe)
        self.labels = labels
        self.layers: list[str] = []
        self._changing: list[tuple[nn.Module, str]] = []
        self._armed = False
        self._trains = False  # whether the model has been seen in training mode
        if self.probe is not None:
            self._try(note)

    def _try(self, note: Callable[[str], None]) -> None:
        """Run the probe once: it must fit, and shows which layers run and how often."""
        outputs: list[Any] = []
        try:
            with undisturbed(self.model), self.taps.listening():
                self._changing = buffers_that_change(
                    self.model, lambda: outputs.append(call(self.model, self._on_device()))
                )
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            shapes = ", ".join(f"{n} {list(t.shape)}" for n, t in probe_tensors(self.probe, None).items())
            raise bad_value(
                "probe", shapes, f"does not fit the model ({reason})", "give what it takes"
            ) from None
        self._settle(note)
        self.taps.clear()
        probe_scalars(outputs[0], self._labels())

    def _settle(self, note: Callable[[str], None] | None = None) -> None:
        """Fix the layers: those that were heard."""
        heard = self.taps.order(list(self.taps.rows))
        if not self.automatic:
            for name in self.taps.modules:
                if name not in self.taps.rows:
                    why = self.taps.strange.get(name, "it does not run on the probe")
                    raise bad_value("layers", name, why, "leave it out, or name another module")
        if not heard:
            raise bad_value("layers", list(self.taps.modules), "none of them runs", "name modules that run")
        self.layers = thinned(heard) if self.automatic else heard
        if note is not None and len(self.layers) < len(heard):
            note(f"layers='auto': {len(heard)} layers, of which {MOST_LAYERS} evenly spaced are measured")
        kept = {name.partition("#")[0] for name in self.layers}
        self.taps.modules = {name: module for name, module in self.taps.modules.items() if name in kept}

    def arm(self, armed: bool) -> None:
        """Whether the coming forward pass will be measured, where the batch is.

        Hooks are on for that pass only: a module with hooks, even idle ones, goes a slower way.
        """
        if self.on != "batch" or armed == self._armed:
            return
        self._armed = armed
        if armed:
            self.taps.attach(self._wanted)
        else:
            self.taps.detach()

    def _wanted(self) -> bool:
        """Whether a forward pass is one of training: an evaluation between two steps is not."""
        self._trains = self._trains or self.model.training
        return torch.is_grad_enabled() and self.model.training == self._trains

    def look(self, whole: bool = False, attention: bool = False) -> Look | None:
        """Rows of every layer now; None where no training batch was heard."""
        if self.on == "batch":
            return self._look_at_batch()
        patterns: Mapping[str, Tensor] = {}
        with ExitStack() as stack:
            stack.enter_context(undisturbed(self.model, self._changing))
            stack.enter_context(self.taps.listening())
            self.taps.captured = {} if whole else None
            if attention and self.attention:
                from microtome.attention_patterns import record_attention

                patterns = stack.enter_context(record_attention(self.model))
            output = call(self.model, self._on_device())
            scalars = probe_scalars(output, self._labels())
        captured = {name: x for name, x in (self.taps.captured or {}).items() if name in self.layers}
        captured |= {f"attention/{plain_name(name)}": pattern for name, pattern in patterns.items()}
        self.taps.captured = None
        look = self._heard()
        look.scalars, look.captured = scalars, captured
        return look

    def _look_at_batch(self) -> Look | None:
        if not self.taps.rows:
            return None
        if not self.layers:
            self._settle()
        return self._heard()

    def _heard(self) -> Look:
        names = [name for name in self.layers if name in self.taps.rows]
        look = Look({n: self.taps.rows[n] for n in names}, {n: self.taps.grams[n] for n in names})
        self.taps.clear()
        return look

    def detach(self) -> None:
        """Take every hook off."""
        self.taps.detach()

    def state(self) -> dict[str, Tensor]:
        """A copy of the model's parameters and buffers, by plain name."""
        return {
            plain_name(name): value.detach().clone()
            for name, value in self.model.state_dict().items()
            if isinstance(value, Tensor)
        }

    def shapes(self) -> dict[str, str]:
        """How each layer's output became rows, in words."""
        return {name: self.taps.shapes[name] for name in self.layers if name in self.taps.shapes}

    def described(self) -> dict[str, Any]:
        """The probe in words."""
        shapes = {n: list(t.shape) for n, t in probe_tensors(self.probe, self.labels).items()}
        return {"on": self.on, "tensors": shapes}

    # -- the probe

    def _as_model_takes(self, probe: Any) -> Any:
        """Tensors detached, and of the model's floating-point type."""
        dtype = next((p.dtype for p in self.model.parameters() if p.is_floating_point()), torch.float32)

        def convert(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            return value.detach().to(dtype) if value.is_floating_point() else value.detach()

        converted = _mapped(probe, convert)
        if not probe_tensors(converted, None):
            raise bad_value("probe", type(probe).__name__, "holds no tensor", "give what the model takes")
        return converted

    def _on_device(self) -> Any:
        """The probe where the model is now, and kept there."""
        device = next((p.device for p in self.model.parameters()), self.device)
        tensors = probe_tensors(self.probe, None).values()
        if any(tensor.device != device for tensor in tensors):
            self.probe = _mapped(self.probe, lambda x: x.to(device) if isinstance(x, Tensor) else x)
        return self.probe

    def _labels(self) -> Tensor | None:
        device = next((p.device for p in self.model.parameters()), self.device)
        if self.labels is not None and self.labels.device != device:
            self.labels = self.labels.to(device)
        return self.labels


def _mapped(probe: Any, convert: Callable[[Any], Any]) -> Any:
    if isinstance(probe, Mapping):
        return {name: convert(value) for name, value in probe.items()}
    if isinstance(probe, (tuple, list)):
        return tuple(convert(value) for value in probe)
    return convert(probe)


def probe_tensors(probe: Any, labels: Tensor | None) -> dict[str, Tensor]:
    """The probe's tensors by name, as they are written: inputs (inputs_2, ...), or their keywords; labels."""
    if isinstance(probe, Mapping):
        named = dict(probe)
    else:
        several = probe if isinstance(probe, (tuple, list)) else (probe,)
        named = {"inputs" if i == 0 else f"inputs_{i + 1}": x for i, x in enumerate(several)}
    if labels is not None:
        named["labels"] = labels
    return {name: value for name, value in named.items() if isinstance(value, Tensor)}


def probe_scalars(output: Any, labels: Tensor | None) -> dict[str, Tensor]:
    """``probe_loss`` and, for classes, ``probe_accuracy``, of an output on labels.

    Whole-number labels are classes (cross entropy in nats; -100 does not count), along the last axis of
    ``[B, ..., C]``; others are targets of the output's shape (mean squared error). Without labels the loss
    that a Hugging Face model gives itself.
    """
    own = getattr(output, "loss", None)
    if labels is None:
        return {"probe_loss": own.detach().float()} if isinstance(own, Tensor) and own.numel() == 1 else {}
    logits = getattr(output, "logits", None)
    logits = (logits if isinstance(logits, Tensor) else first_tensor(output)).detach().float()
    if labels.is_floating_point():
        if labels.shape != logits.shape:
            raise _bad_labels(labels, logits)
        return {"probe_loss": (logits - labels.float()).square().mean()}
    if logits.shape[:-1] != labels.shape:
        raise _bad_labels(labels, logits)
    flat, classes = logits.reshape(-1, logits.shape[-1]), labels.reshape(-1).long()
    counted = classes != -100
    right = (flat.argmax(-1) == classes) & counted
    loss = nn.functional.cross_entropy(flat, classes)
    return {"probe_loss": loss, "probe_accuracy": right.sum() / counted.sum()}


def _bad_labels(labels: Tensor, logits: Tensor) -> MicrotomeError:
    return bad_value(
        "labels",
        list(labels.shape),
        f"do not fit the model's output {list(logits.shape)}",
        "give a class for each row of it, or targets of its shape",
    )
