"""`run.watch(module)`: histograms of a torch module's gradients and parameters, every so many passes.

torch is never imported: the module brings what is needed. Counting happens on the tensor's device, and only
the counts are transferred. Nothing here ends a training: a tensor that cannot be counted gives one warning.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from pluto_dist.client.arguments import whole_of
from pluto_dist.client.interface import RunLike
from pluto_dist.client.media.tables import Histogram
from pluto_dist.client.values import first_line, shown

GRADIENTS, PARAMETERS = "grad", "param"  # the official client's prefixes
MOST_BINS = 10_000

Warn = Callable[[str, str], None]


class Watch:
    """The hooks of one call. They end with the Run, and do nothing in a copy of the module.

    Args:
        run: where to log.
        module: of torch.
        freq: log at each so many backward (gradients) or forward passes (parameters).
        bins: of each histogram.
        warn: gives each warning once.
    """

    def __init__(self, run: RunLike, module: Any, freq: int, bins: int, warn: Warn) -> None:
        self._run = run
        self._module = weakref.ref(module)
        self._freq = freq
        self._bins = bins
        self._warn = warn
        self._passes: dict[str, int] = {}

    def gradients(self, module: Any) -> None:
        """Watches the gradient of each parameter."""
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                parameter.register_hook(_Hook(self, name))

    def parameters(self, module: Any) -> None:
        """Watches the parameters themselves."""
        module.register_forward_hook(_Hook(self, ""))

    def passed(self, name: str, given: tuple[Any, ...]) -> None:
        """Takes the call of a hook, with a gradient, or with the module and its inputs and outputs."""
        count = self._passes[name] = self._passes.get(name, 0) + 1
        if count % self._freq or self._run.ended:
            return
        if name:
            self._log(f"{GRADIENTS}/{name}", given[0])
            return
        module = self._module()
        if module is not None and module is given[0]:
            for each, parameter in module.named_parameters():
                self._log(f"{PARAMETERS}/{each}", parameter)

    def _log(self, name: str, tensor: Any) -> None:
        try:
            found = histogram_of(tensor, self._bins)
        except Exception as error:  # noqa: BLE001 # code of others: kinds of tensors that cannot be counted
            self._warn(f"watch:{name}", f"watch(): {name}: {type(error).__name__}: {first_line(error)}")
            return
        if found is not None:
            self._run.log({name: found}, step=max(self._run.next_step - 1, 0))


class _Hook:
    """The callable that torch keeps; in a module that is pickled it becomes an empty one."""

    def __init__(self, watch: Watch | None = None, name: str = "") -> None:
        self._watch = watch
        self._name = name

    def __call__(self, *given: Any) -> None:
        if self._watch is not None:
            self._watch.passed(self._name, given)

    def __reduce__(self) -> tuple[object, ...]:
        return (_Hook, ())


def watch(
    run: RunLike,
    module: Any,
    warn: Warn,
    *,
    disable_graph: bool = True,
    disable_grad: bool = False,
    disable_param: bool = False,
    freq: int = 1000,
    bins: int = 64,
    log: str | None = None,
    log_freq: int | None = None,
    log_graph: bool | None = None,
    **more: object,
) -> None:
    """See `Run.watch`.

    Raises:
        ArgumentError: `freq` or `bins` is no whole number from 1 on.
    """
    every = whole_of("freq", freq if log_freq is None else log_freq, 1, 2**62)
    bins = whole_of("bins", bins, 1, MOST_BINS)
    if not callable(getattr(module, "named_parameters", None)):
        warn("watch", f"watch({shown(module)}): it has no parameters to watch; pass a torch module")
        return
    if log is not None:
        disable_grad, disable_param = log not in ("gradients", "all"), log not in ("parameters", "all")
    watched = Watch(run, module, every, bins, warn)
    if not disable_grad:
        watched.gradients(module)
    if not disable_param:
        watched.parameters(module)
    if log_graph or not disable_graph:
        warn("watch:graph", "watch(): the graph is not recorded by this version; log str(module) as a Text")
    if more:
        warn("watch:more", f"watch(): {', '.join(more)} has no meaning here and was left out")


def histogram_of(tensor: Any, bins: int) -> Histogram | None:
    """A histogram of the values, None if none is finite; of a sharded tensor, of this rank's part."""
    flat = tensor.detach()
    if hasattr(flat, "to_local"):
        flat = flat.to_local()
    if flat.is_sparse:
        flat = flat.coalesce().values()
    flat = flat.float().reshape(-1)
    flat = flat[flat.isfinite()]
    if not flat.numel():
        return None
    low, high = float(flat.min()), float(flat.max())
    if low == high:
        low, high = low - 0.5, high + 0.5
    counts = flat.histc(bins, low, high).tolist()
    return Histogram((counts, [low + (high - low) * n / bins for n in range(bins + 1)]), bins=None)
