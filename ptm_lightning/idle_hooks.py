"""What Lightning does around hooks, made cheap; hooks that nobody overrides cost nothing."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.profilers import PassThroughProfiler

EACH_BATCH = (
    "on_train_batch_start",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
)
"""What Lightning calls in training for each batch, of the task and of all callbacks."""
_NOTHING = nullcontext()


class _NoProfiler(PassThroughProfiler):
    """Lightning's own makes a new context around each call."""

    def profile(self, action_name: str) -> AbstractContextManager[None]:  # type: ignore[override]
        return _NOTHING


class QuickModule(LightningModule):
    """A LightningModule that Lightning tells the name of each hook, twice a call, without torch's search.

    torch looks at every value that is set for a parameter, a buffer or a module.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "_current_fx_name":
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)


def skip_idle_hooks(trainer: Any) -> None:
    """Hides from Lightning what it would call for each batch though it does nothing.

    With the callbacks of the command line they would cost as much as all that is done in them. What isn't callable
    Lightning leaves out.

    Args:
        trainer: Lightning's, when training begins.
    """
    _hide(trainer.lightning_module, LightningModule)
    for callback in trainer.callbacks:
        _hide(callback, Callback)
    if type(trainer.profiler) is PassThroughProfiler:
        trainer.profiler = _NoProfiler()


def _hide(owner: object, base: type) -> None:
    for name in EACH_BATCH:
        if getattr(getattr(owner, name), "__func__", None) is getattr(base, name):
            setattr(owner, name, None)
