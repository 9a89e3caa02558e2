"""Record and replace the activations of any module, and read their gradients, through forward hooks."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from microtome.core.config_keys import nearest
from microtome.core.errors import MicrotomeError

Act = Callable[[str, Tensor, Tensor], None]


def first_tensor(output: Any) -> Tensor:
    """The tensor itself, or the first one in a tuple, list, mapping or model output.

    Raises ``MicrotomeError`` where there is none.
    """
    if isinstance(output, Tensor):
        return output
    values = output.values() if isinstance(output, Mapping) else output
    for value in values if isinstance(values, (tuple, list)) or isinstance(output, Mapping) else ():
        if isinstance(value, Tensor):
            return value
    raise MicrotomeError(
        f"a module gives a {type(output).__name__} without a tensor in it; name a module inside it"
    )


def with_first_tensor(output: Any, new: Tensor) -> Any:
    """``output`` with its first tensor replaced by ``new``; the container is left as it was."""
    if isinstance(output, Tensor):
        return new
    old = first_tensor(output)
    if isinstance(output, Mapping):
        changed: Any = type(output)(**{k: new if v is old else v for k, v in output.items()})
        return changed
    values = [new if value is old else value for value in output]
    return type(output)(*values) if hasattr(output, "_fields") else type(output)(values)


@contextmanager
def record(
    module: nn.Module,
    names: Sequence[str],
    *,
    side: Literal["output", "input"] = "output",
    detach: bool = True,
) -> Iterator[dict[str, Tensor]]:
    """Keep what the named modules give out (or are given) while the block runs.

    Yields a dict that fills as the model runs: name -> the tensor of the last call, not copied (an operation
    that later writes into it changes it here too). Of several outputs the first tensor counts. ``detach``
    cuts it from the graph. Raises ``MicrotomeError`` for a name that the model does not have.
    """
    found: dict[str, Tensor] = {}

    def keep(name: str, value: Any) -> None:
        tensor = first_tensor(value)
        found[name] = tensor.detach() if detach else tensor

    with ExitStack() as stack:
        _run_eagerly(module, stack)
        for name, submodule in submodules(module, names).items():
            if side == "output":
                handle = submodule.register_forward_hook(lambda _m, _a, out, name=name: keep(name, out))
            else:
                handle = submodule.register_forward_pre_hook(
                    lambda _m, args, kwargs, name=name: keep(name, (*args, *kwargs.values())),
                    with_kwargs=True,
                )
            stack.callback(handle.remove)
        yield found


@contextmanager
def replace(module: nn.Module, functions: Mapping[str, Callable[[Tensor], Tensor]]) -> Iterator[None]:
    """While the block runs, each named module gives out ``function(its output)`` instead.

    Of several outputs the first tensor is replaced. Raises ``MicrotomeError`` for an unknown name, or when a
    function changes the shape.
    """

    def change(name: str, output: Any) -> Any:
        old = first_tensor(output)
        new = functions[name](old)
        if new.shape != old.shape:
            raise MicrotomeError(
                f"{name}: replaced by shape {list(new.shape)} where it gives {list(old.shape)};"
                " the function must keep the shape"
            )
        return with_first_tensor(output, new)

    with ExitStack() as stack:
        _run_eagerly(module, stack)
        for name, submodule in submodules(module, list(functions)).items():
            handle = submodule.register_forward_hook(lambda _m, _a, out, name=name: change(name, out))
            stack.callback(handle.remove)
        yield


@contextmanager
def record_gradients(module: nn.Module, names: Sequence[str], act: Act) -> Iterator[None]:
    """Let one backward pass give the gradient at every named module's output.

    Run the model and ``loss.backward()`` in the block. ``act(name, activation, gradient)`` is called as the
    backward pass reaches each output, last module first, once for each time that the module ran; both tensors
    are detached, not copied, dropped afterwards, and must not be written into. Parameters may be frozen:
    where nothing before an output needs a gradient, the backward pass ends there. The gradient is that of the
    whole loss, through every later layer, so that it equals detaching the output and differentiating by it.
    """

    def watch(name: str, output: Any) -> Any:
        tensor = first_tensor(output)
        if not torch.is_grad_enabled():
            raise RuntimeError(f"{name}: ran without gradients; take torch.no_grad() away from the model")
        if not tensor.requires_grad:
            tensor = tensor.detach().requires_grad_()
            output = with_first_tensor(output, tensor)
        held = [tensor.detach()]
        version = tensor._version

        def arrived(gradient: Tensor) -> None:
            if not held:
                raise RuntimeError(f"{name}: one forward pass gives one backward pass; run the model again")
            activation = held.pop()
            if activation._version != version:
                raise RuntimeError(f"{name}: a later layer wrote over this output; its value is lost")
            act(name, activation, gradient.detach())

        tensor.register_hook(arrived)
        return output

    with ExitStack() as stack:
        _run_eagerly(module, stack)
        for name, submodule in submodules(module, names).items():
            handle = submodule.register_forward_hook(lambda _m, _a, out, name=name: watch(name, out))
            stack.callback(handle.remove)
        yield


def submodules(module: nn.Module, names: Sequence[str]) -> dict[str, nn.Module]:
    """The named modules. Raises ``MicrotomeError`` with the nearest name for one that is not there."""
    found = {}
    for name in names:
        try:
            found[name] = module.get_submodule(name)
        except AttributeError:
            near = nearest(name, [other for other, _ in module.named_modules()])
            mend = f"did you mean {near}?" if near else "print model.named_modules() for the names"
            raise MicrotomeError(f"{name}: the model has no such module; {mend}") from None
    return found


def _run_eagerly(module: nn.Module, stack: ExitStack) -> None:
    """A compiled module does not notice new hooks: inside the block it runs uncompiled."""
    compiled = any(
        getattr(part, "_compiled_call_impl", None) is not None or hasattr(part, "_orig_mod")
        for part in module.modules()
    )
    if compiled:
        stack.enter_context(torch.compiler.set_stance("force_eager"))
