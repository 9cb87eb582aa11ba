"""Ends a run after a number of tokens or hours: both become a number of optimizer steps, which the schedule knows."""

import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from ptm_lightning.errors import UserError
from ptm_lightning.log import say

from .estimate import Shape, Weights, device_speed, precision_type, sample, training_flops
from .step_timer import StepTimer
from .validation import RegularValidation

LIGHTNINGS_EPOCHS = 1000
"""What Lightning sets when the user gives no end."""
FAR = 10**12
"""Steps that no run reaches."""
MEASURED_SHARE = 0.05
"""Of the hours: so long is measured,"""
MEASURED_SECONDS = 120.0
"""but no longer than that,"""
FEWEST_STEPS = 3
"""and so many steps at least."""
SLOW_STEPS = 5
"""The first steps, which are slow, aren't measured if there is time for more."""
EVALUATION_COST = 1 / 3
"""A micro-batch of validation beside one of training, a forward pass beside a forward and a backward pass: the guess
while no whole validation was seen."""
MARGIN = 0.97
"""Share of the remaining time that is planned; the rest is for checkpoints and the end."""


class Budget(StepTimer):
    """Ends a run after `max_tokens` tokens or `max_hours` hours, or earlier if the trainer's own limits say so.

    Tokens are turned into steps by the plan of the data, exactly. Hours, counted from the first step on and with the
    validations, are turned into steps once, when 5 % of them (at most two minutes) have shown what a step takes. That
    number is stored in checkpoints and used again on resume. Until it is known, the schedule works with the most steps
    that the device could do at the speed of its matrix products: the warm-up then rises more slowly than it later turns
    out to be right, never faster.

    Args:
        max_tokens: Tokens of training, padding not counted.
        max_hours: Hours of training.
    """

    window = None

    def __init__(self, max_tokens: int | None = None, max_hours: float | None = None) -> None:
        for name, value in (("max_tokens", max_tokens), ("max_hours", max_hours)):
            if value is not None and value <= 0:
                raise UserError(f"--{name} {value}: give a positive number, or leave it out")
        super().__init__()
        self.max_tokens = max_tokens
        self.max_hours = max_hours
        self.hour_steps: int | None = None
        """The steps that `max_hours` became, once they are known."""
        self._most_steps = FAR
        self._other_limit = FAR
        self._hours_before = 0.0
        self._began: float | None = None
        self._to_skip = SLOW_STEPS
        self._validation_began = 0.0
        self._validation_seconds: float | None = None

    @property
    def undecided(self) -> bool:
        """Whether the run's length still has to be measured."""
        return self.max_hours is not None and self.hour_steps is None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Sets the limit, between the data's setup and the module's, which asks for it."""
        if stage != "fit" or (self.max_tokens is None and self.max_hours is None):
            return
        own_limit = trainer.max_steps
        if own_limit < 0 and trainer.max_epochs == LIGHTNINGS_EPOCHS:
            trainer.fit_loop.max_epochs = -1
        # The number of steps depends on the layout, which the module may change in its setup; that can be repeated.
        _limit(trainer, pl_module, FAR)
        pl_module.setup(stage)
        _limit(trainer, pl_module, own_limit)
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        limits = [FAR]
        if own_limit >= 0 or (trainer.max_epochs or -1) >= 0:
            limits.append(data.total_steps())
        if self.max_tokens is not None:
            limits.append(data.plan.steps_for_tokens(self.max_tokens))
        self._other_limit = min(limits)
        if self.max_hours is not None:
            self._most_steps = trainer.strategy.broadcast(_most_steps(trainer, pl_module, self.max_hours))
        self._apply(trainer, pl_module)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Goes on with the number of steps that was measured before, if the budget is the same."""
        state = checkpoint["callbacks"].get(self.state_key)
        if trainer.state.fn != "fit" or self.max_hours is None or not state:
            return
        self._hours_before = state["hours"]
        if state["max_hours"] == self.max_hours:
            self.hour_steps, self._most_steps = state["hour_steps"], state["most_steps"]
        self._apply(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """What resume needs."""
        return {
            "max_hours": self.max_hours,
            "hour_steps": self.hour_steps,
            "most_steps": self._most_steps,
            "hours": self._hours(),
        }

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock."""
        super().on_train_start(trainer, pl_module)
        self._began = time.monotonic()
        self._to_skip = SLOW_STEPS

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts another clock."""
        super().on_validation_start(trainer, pl_module)
        self._validation_began = time.monotonic()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Knows what a whole validation takes."""
        if not trainer.sanity_checking or trainer.num_sanity_val_steps == float("inf"):
            self._validation_seconds = time.monotonic() - self._validation_began

    def on_timed_step(self, trainer: Trainer, module: LightningModule) -> None:
        """Decides once, when enough was measured."""
        if self.max_hours is None or self.hour_steps is not None:
            self.timed.clear()
            return
        # One process's clock for all, for they must decide at the same step.
        hours, step_seconds, validation_seconds = trainer.strategy.broadcast(
            (self._hours(), self.step_seconds or 0.0, self._validation_seconds)
        )
        late = (hours - self._hours_before) * 3600 >= min(MEASURED_SHARE * self.max_hours * 3600, MEASURED_SECONDS)
        last_chance = trainer.global_step + 1 >= self._most_steps
        if self._to_skip and not late and not last_chance:
            self._to_skip -= 1
            self.timed.clear()
        elif last_chance or (late and len(self.timed) >= FEWEST_STEPS):
            left = max(0.0, (self.max_hours - hours) * 3600 * MARGIN)
            steps = _steps_in(left, step_seconds, validation_seconds, trainer)
            self.hour_steps = trainer.global_step + max(1, int(steps))
            self._apply(trainer, module)
            say(
                f"--max_hours {self.max_hours:g} makes {trainer.max_steps} steps, for a step takes {step_seconds:.3g} s"
            )

    def _hours(self) -> float:
        return self._hours_before + ((time.monotonic() - self._began) / 3600 if self._began is not None else 0.0)

    def _apply(self, trainer: Trainer, module: LightningModule) -> None:
        by_hours = FAR if self.max_hours is None else self.hour_steps or self._most_steps
        _limit(trainer, module, min(self._other_limit, by_hours))


def _limit(trainer: Trainer, module: Any, steps: int) -> None:
    """Lets the loop end, and the schedule reckon, with so many steps; -1 for no limit."""
    trainer.fit_loop.epoch_loop.max_steps = steps
    module.total_steps = max(0, steps)


def _most_steps(trainer: Trainer, module: Any, hours: float) -> int:
    """The steps that the device could do at the speed of its matrix products."""
    weights, shape = Weights.of(module.network), Shape.of(sample(trainer.datamodule.train_dataloader()))  # type: ignore[attr-defined]
    speed = device_speed(trainer.strategy.root_device, precision_type(trainer))
    step = training_flops(weights, shape) * trainer.accumulate_grad_batches / speed
    return max(2, int(hours * 3600 / step))


def _steps_in(seconds: float, step_seconds: float, validation_seconds: float | None, trainer: Trainer) -> float:
    """Steps that fit into a time, with the validations that come with them."""
    batches = sum(count for count in trainer.num_val_batches if count != float("inf"))
    guess = batches * step_seconds / trainer.accumulate_grad_batches * EVALUATION_COST
    validation = guess if validation_seconds is None else validation_seconds
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, RegularValidation) and callback.active:
            return max(0.0, seconds - callback.times * validation) / step_seconds
    if trainer.val_check_batch is None:  # an interval in time, which doesn't depend on ours
        return seconds / step_seconds
    every = trainer.val_check_batch / trainer.accumulate_grad_batches
    if every == float("inf"):
        every = trainer.datamodule.plan.steps(0) * (trainer.check_val_every_n_epoch or 1)  # type: ignore[attr-defined]
    return seconds / (step_seconds + validation / every)
