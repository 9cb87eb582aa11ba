"""What a run will be, on one screen, before it begins."""

import sys
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only

from ptm_lightning.log import say

from .budget import Budget
from .estimate import (
    EFFICIENCY,
    Shape,
    Weights,
    device_speed,
    free_bytes,
    precision_type,
    sample,
    training_bytes,
    training_flops,
)
from .human import compact, duration


class Overview(Callback):
    """Prints what is trained, on how much, for how long, and where it goes, before training begins.

    Memory and time are estimates, as `estimate.py` says: the time takes 40 % of the speed of a matrix product that is
    measured on the spot, without validation and waiting. If the memory doesn't seem to suffice, that is said.
    """

    def __init__(self) -> None:
        self._done_steps = 0

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Takes the position, which the trainer doesn't have yet when training begins."""
        self._done_steps = int(checkpoint["global_step"])

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prints the lines."""
        lines, warning = describe(trainer, pl_module, self._done_steps)
        width = max(map(len, lines))
        _print("".join(f"{name:<{width}}  {text}\n" for name, text in lines.items()))
        if warning:
            say(warning)


def describe(trainer: Trainer, module: Any, done_steps: int = 0) -> tuple[dict[str, str], str]:
    """The lines of the overview by their names, and a warning if the memory doesn't seem to suffice.

    Args:
        trainer: Lightning's, when the module and the data are set up.
        module: The task.
        done_steps: Optimizer steps that were done before.
    """
    loader = trainer.datamodule.train_dataloader()  # type: ignore[attr-defined]
    shape = Shape.of(sample(loader))
    weights, *auxiliary = map(Weights.of, (module.network, *module.auxiliary_networks().values()))
    device, kind = trainer.strategy.root_device, precision_type(trainer)
    left = max(0, module.total_steps - done_steps)
    work = sum(training_flops(each, shape) for each in (weights, *auxiliary)) * trainer.accumulate_grad_batches * left
    seconds = work / (EFFICIENCY * device_speed(device, kind))
    half, averaged = kind.itemsize == 2, bool(module.ema)
    needed = sum(training_bytes(each, shape, half=half, averaged=averaged) for each in (weights, *auxiliary))
    free = free_bytes(device)

    budget = next((c for c in trainer.callbacks if isinstance(c, Budget) and c.undecided), None)  # type: ignore[attr-defined]
    steps, tokens = _steps_and_tokens(loader.batches.plan, module)
    if trainer.max_steps > module.total_steps:
        steps += f"; --trainer.max_epochs {trainer.max_epochs} ends before --trainer.max_steps {trainer.max_steps}"
    if budget is not None:
        steps = f"as many as {budget.max_hours:g} h allow, to be measured"
        seconds = (budget.max_hours or 0) * 3600
    elif done_steps:
        steps += f"; {done_steps:,} are done"
    parameters = f"{compact(weights.total)}, {compact(weights.embeddings)} of them in embeddings"
    lines = {
        "parameters": parameters + _trained(module),
        "tokens": tokens,
        "steps": steps,
        "memory": f"about {_size(needed)}" + (f", {_size(free)} free" if free is not None else ""),
        "time": f"about {duration(seconds)}",
        "run folder": str(trainer.default_root_dir),
    }
    short = free is not None and needed > free
    advice = "lower --data.batch_tokens (with more --trainer.accumulate_grad_batches), or take a smaller --model.size"
    return lines, f"memory: {lines['memory']}; {advice}" if short else ""


def _trained(module: Any) -> str:
    """How many parameters are trained, if some aren't."""
    numbers = [(p.numel(), p.requires_grad) for p in module.network.parameters()]
    trained = sum(number for number, trains in numbers if trains)
    return "" if all(trains for _, trains in numbers) else f"; {compact(trained)} are trained"


def _steps_and_tokens(plan: Any, module: Any) -> tuple[str, str]:
    """The lines on steps and tokens."""
    extent, total = plan.extent(), module.total_steps
    seen = f"{compact(total * extent.step_tokens)}, {total / extent.steps:.3g} epochs"
    steps = f"{total:,} of {extent.step_tokens:,.0f} tokens: {seen}"
    tokens = f"{compact(extent.tokens)} in {extent.documents:,} documents"
    if held_out := module.link.provenance.get("validation", {}).get("tokens"):
        tokens += f"; {compact(held_out)} for validation"
    return steps, tokens


def _size(size: float) -> str:
    if size < 1e8:
        return f"{size / 1e6:.0f} MB"
    return f"{size / 1e9:.2g} GB" if size < 9.95e9 else f"{size / 1e9:.0f} GB"


@rank_zero_only
def _print(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()
