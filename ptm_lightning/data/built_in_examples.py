"""What is said of built-in examples, so that nobody takes them for data of their own."""

from typing import TYPE_CHECKING

from ptm_lightning.data.builtin import described
from ptm_lightning.log import say

if TYPE_CHECKING:
    from ptm_lightning.data.task_data import TaskData


def say_built_in(data: "TaskData", stage: str) -> None:
    """Says which sources of a stage are built-in examples; a mixture says it of all its parts.

    Args:
        data: When its stores are open.
        stage: As Lightning calls it. What has no source is held out of training's.
    """
    if data.shared_tokenizer is not None:  # it is a part, and others may have the same example
        return
    sources: list[str] = []
    for settings in (member.settings() for member in data.members().values()):
        read = {
            "fit": (*settings.train, *settings.validation),
            "validate": settings.validation or settings.train,
            "test": settings.test or settings.train,
        }
        sources += read.get(stage, ())
    for name, text in described(sources).items():
        say(f"{name} is a built-in example: {text} Give your own rows with --data.train")
