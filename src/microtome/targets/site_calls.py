"""Running a module with the forward passes of its sites replaced by a site function."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from microtome.core.errors import MicrotomeError
from microtome.targets.network import SiteFunction
from microtome.targets.recording import first_tensor, without_fused_attention
from microtome.targets.replacing import has_own_forward, replaced
from microtome.targets.row_axes import Layout, Probe, arranged
from microtome.targets.site_choice import PRE_IDENTITY, NotASite
from microtome.targets.site_kinds import kind_of


class SiteCalls:
    """One pass of a module: every layer's call goes to ``site``, as often as the layer runs.

    ``layers`` maps a layer's own name to its site's; ``identities`` are modules whose input goes through the
    site ``<module>.pre_identity``. ``n_rows`` is the batch the module gets, ``n_instances`` times B, and
    ``probe`` says where these rows lie in what reaches a layer.
    """

    def __init__(
        self,
        module: nn.Module,
        layers: Mapping[str, str],
        identities: Sequence[str],
        site: SiteFunction,
        n_instances: int,
        n_rows: int,
        probe: Probe,
    ) -> None:
        self.module, self.layers, self.identities = module, layers, list(identities)
        self.site, self.n_instances, self.n_rows, self.probe = site, n_instances, n_rows, probe
        self.ran: set[str] = set()
        self._active = False

    @contextmanager
    def active(self) -> Iterator[None]:
        """Inside, the sites are replaced; afterwards they are as before, whatever happened in between."""
        if self._active:
            yield
            return
        with ExitStack() as undo:
            undo.enter_context(without_fused_attention())
            for own_name, name in self.layers.items():
                layer = self.module.get_submodule(own_name)
                inside = has_own_forward(layer) and own_name not in self.probe.plain
                undo.enter_context(replaced(layer, self._call(own_name, name), inside=inside))
            for name in self.identities:
                hook = self._before(name)
                handle = self.module.get_submodule(name).register_forward_pre_hook(hook, with_kwargs=True)
                undo.callback(handle.remove)
            self._active = True
            undo.callback(setattr, self, "_active", False)
            yield

    def check_all_ran(self, patterns: Sequence[str]) -> None:
        """Raises MicrotomeError for a site that did not run, as masking it would silently change nothing."""
        wanted = [*self.layers, *(name + PRE_IDENTITY for name in self.identities)]
        idle = [name for name in wanted if name not in self.ran]
        if idle:
            layer = self.module.get_submodule(idle[0].removesuffix(PRE_IDENTITY))
            why = ""
            if has_own_forward(layer):
                why = f" (the forward pass of {type(layer).__name__} does not call super().forward)"
            raise NotASite(
                f"site {idle[0]!r} did not run in the forward pass{why}, so that masking it would change "
                f"nothing; leave it out of the patterns {list(patterns)}",
                idle,
            )

    def counts(self) -> dict[str, int]:
        """How often each site has run so far, where the site function counts."""
        return dict(getattr(self.site, "calls", {}))

    @contextmanager
    def counting_from(self, counts: Mapping[str, int]) -> Iterator[None]:
        """Inside, the site function counts on from ``counts``, as when it first ran this part of the pass."""
        calls: dict[str, int] | None = getattr(self.site, "calls", None)
        if calls is None:
            yield
            return
        after = dict(calls)
        calls.clear()
        calls.update(counts)
        try:
            yield
        finally:
            calls.clear()
            calls.update(after)

    def _call(self, own_name: str, name: str) -> Any:
        layer = self.module.get_submodule(own_name)
        kind = kind_of(layer)
        assert kind is not None, own_name
        correction = self._bias_difference(own_name, name)

        def call(*args: Tensor, **kwargs: Tensor) -> Tensor:
            (value,) = (*args, *kwargs.values())
            self.ran.add(own_name)
            if kind.kind == "conv2d" and value.ndim != 4:
                raise MicrotomeError(
                    f"{own_name}: input of shape {list(value.shape)}; give images in batches [n, c, h, w]"
                )
            out = self._run(own_name, name, kind.rows(layer, value), value.ndim)
            return kind.output(layer, value, out if correction is None else out + correction)

        return call

    def _before(self, name: str) -> Any:
        def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ARG001
            own_name = name + PRE_IDENTITY
            value = first_tensor(args, kwargs)
            if value is None or not value.is_floating_point():
                raise MicrotomeError(f"{own_name}: {name} is given no tensor of numbers; name another layer")
            self.ran.add(own_name)
            new = self._run(name, own_name, value, value.ndim)
            return tuple(new if arg is value else arg for arg in args), {
                key: new if arg is value else arg for key, arg in kwargs.items()
            }

        return before

    def _run(self, own_name: str, name: str, value: Tensor, ndim: int) -> Tensor:
        layout = self.probe.layouts.get((own_name, ndim), Layout())
        rows, put_back = arranged(value, layout, self.n_rows, own_name)
        out = self.site(name, rows.unflatten(0, (self.n_instances, -1)))
        return put_back(out.flatten(0, 1))

    def _bias_difference(self, own_name: str, name: str) -> Tensor | None:
        """What layers that share a weight but not a bias have to add to the shared site's output."""
        own, shared = (self._bias(n) for n in (own_name, name))
        if own is shared or own_name == name:
            return None
        if own is None:
            return -shared if shared is not None else None
        return own if shared is None else own - shared

    def _bias(self, name: str) -> Tensor | None:
        layer = self.module.get_submodule(name)
        kind = kind_of(layer)
        assert kind is not None, name
        return kind.bias(layer)
