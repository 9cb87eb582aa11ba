"""What a checkpoint holds of a task besides its weights."""

from typing import TYPE_CHECKING, Any

from ptm_lightning.checkpoint import FORMAT
from ptm_lightning.environment import differences, environment
from ptm_lightning.link import Link
from ptm_lightning.log import say

if TYPE_CHECKING:
    from ptm_lightning.task import Task


def state_of(task: "Task") -> dict[str, Any]:
    """Plain values and tensors of a task that has met its data; all processes must call it."""
    assert task.link is not None
    trainer, sums = task._trainer, task.running_sums
    if trainer is not None:
        sums = sums.over_processes(trainer.strategy, trainer.world_size)
    return {
        "format": FORMAT,
        "task": type(task).__name__,
        "link": task.link.state(),
        "total_steps": task.total_steps,
        "tokens_seen": task.tokens_seen,
        "running_sums": sums.state(),
        "environment": environment(trainer.precision, trainer.world_size) if trainer is not None else {},
    }


def take_state(task: "Task", state: dict[str, Any]) -> None:
    """Gives a task what another one's `state_of` said, and builds its network if it has none."""
    trainer = task._trainer
    task.link = task.link or Link(**state["link"])
    task.tokens_seen = state["tokens_seen"]
    if trainer is None or trainer.is_global_zero:  # the first process has the sums of all
        task.running_sums.restore(state["running_sums"], task.device)
    task.configure_model()
    if trainer is None or trainer.state.fn != "fit":
        return
    then, now = state.get("environment"), environment(trainer.precision, trainer.world_size)
    if then and (changed := differences(then, now)):
        say(f"continues, not bit-identical: {'; '.join(changed)}")
    if task.schedule != "constant" and state["total_steps"] != task.total_steps:
        say(f"the schedule now ends at step {task.total_steps}, before it was {state['total_steps']}")
