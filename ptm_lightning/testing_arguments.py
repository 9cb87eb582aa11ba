"""The clause that every public argument changes something or is refused."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from ptm_lightning.data.task_data import TaskData
from ptm_lightning.errors import UserError
from ptm_lightning.export import export
from ptm_lightning.task import Task
from ptm_lightning.testing_case import Case, Recorder, digest, quiet

SHARED = {item.name for cls in (Task, TaskData) for item in fields(cls)}  # type: ignore[arg-type]
"""Arguments that every task or data module has."""


@dataclass(frozen=True)
class Alternative:
    """Another value of an argument, and what else must be given for it to mean something."""

    value: Any
    given: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the task or of its data module, given in both of the runs that are compared."""


def every_argument_counts(case: Case) -> None:
    """Each argument of the task and of its data module, set to another value, changes something that can be seen.

    Or a UserError refuses the value. What can be seen: the network's config, initial weights, batches, losses, learning
    rates, the optimizer's groups, which modules are to be compiled, metrics, the place of the cache, worker processes,
    and predictions.
    """
    refused_arguments(case)


def refused_arguments(case: Case) -> set[str]:
    """Holds a task to `every_argument_counts`, and names the arguments that were never taken: each value was refused.

    That is what an argument without effect would look like, too: each needs a reason, or a better alternative.
    """
    known = _known_alternatives(case) | dict(case.alternatives)
    tries = [
        (section, name, other)
        for section, arguments in _sections(case).items()
        for name, hint in arguments.items()
        if case.predicts or name not in ("predict", "text")  # what is given is refused when it is to be predicted for
        for other in _others(case, section, name, hint, known)
    ]
    unknown = set(case.alternatives).difference(*_sections(case).values())
    assert not unknown, f"alternatives are named for what is no argument: {sorted(unknown)}"
    usual = {"({}, {})": list(_seen(case, {}, {}))}  # by what is given
    assert usual["({}, {})"] == list(_seen(case, {}, {})), "two runs with the same arguments differ"
    tries.sort(key=lambda item: item[1] in SHARED)  # a task's own arguments first: their faults are the likely ones
    taken = set()
    with torch.compiler.set_stance("force_eager"):  # that layers are to be compiled is seen without waiting for it
        for section, name, other in tries:
            if _takes(case, section, name, other, usual):
                taken.add((section, name))
    return {name for section, name, _ in tries if (section, name) not in taken}


def _sections(case: Case) -> dict[str, dict[str, Any]]:
    """The arguments of the task and of its data module."""
    return {"task": _arguments(case.task_class), "data": _arguments(case.task_class.data_class)}


def _arguments(cls: type) -> dict[str, Any]:
    """Names and types."""
    hints = get_type_hints(cls, localns={"TaskData": TaskData})
    return {item.name: hints[item.name] for item in fields(cls) if item.init}


def _takes(case: Case, section: str, name: str, other: Alternative, usual: dict[str, list[str]]) -> bool:
    """Whether neither the value is refused nor what is given beside it; then something must change."""
    what = f"{section} argument {name}"
    given = _changes(case, section, other.given)
    changes = _changes(case, section, {**other.given, name: other.value})
    try:
        if repr(given) not in usual:
            usual[repr(given)] = list(_seen(case, *given))
        changed = any(a != b for a, b in zip(usual[repr(given)], _seen(case, *changes), strict=True))
    except UserError:
        return False
    except Exception as error:
        problem = f"{what} = {other.value!r} neither works nor is refused: {type(error).__name__}: {error}"
        raise AssertionError(problem) from error
    assert changed, f"{what} = {other.value!r} changes nothing and is not refused"
    return True


def _changes(case: Case, section: str, changes: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Those of the task and those of the data module; what both have is the section's."""
    own = _sections(case)[section]
    mine = {name: value for name, value in changes.items() if name in own}
    others = {name: value for name, value in changes.items() if name not in own}
    return (mine, others) if section == "task" else (others, mine)


def _others(case: Case, section: str, name: str, hint: Any, known: Mapping[str, Any]) -> Iterator[Alternative]:
    """The named alternative; without one, what the type suggests."""
    if name in known:
        named = known[name]
        yield named if isinstance(named, Alternative) else Alternative(named)
        return
    module = case.task() if section == "task" else case.data()
    present = getattr(module, name)
    if get_origin(hint) is Literal:
        yield from (Alternative(choice) for choice in get_args(hint) if choice != present)
    elif isinstance(present, bool):
        yield Alternative(not present)
    elif isinstance(present, int):
        yield Alternative(present + 1)
    elif isinstance(present, float):
        yield Alternative(present / 2 or 0.1)
    else:
        raise AssertionError(
            f"no other value is known for the {section} argument {name}; "
            f"name one: check_task({case.task_class.__name__}, alternatives={{{name!r}: ...}})"
        )


def _known_alternatives(case: Case) -> dict[str, Any]:
    """Other values for the arguments of the core's classes whose type alone suggests none."""
    train, other, test = (case.source(name) for name in ("train", "other", "test"))
    columns = [str(case.folder / "texts" / "columns.jsonl")]
    task = case.task()
    first = getattr(case.data(), "fields", ("text",))[0]
    pretrained = {"backbone": str(_backbone(case)), "overrides": None}
    adapted = pretrained | {"lora_rank": 2} if find_spec("peft") else {}  # without it they are refused
    return {
        "backbone": str(_backbone(case)),
        "architecture": "roberta" if task.architecture != "roberta" else "bert",
        "size": Alternative("mini", given={"overrides": None}),
        "overrides": {**(task.overrides or {}), "num_hidden_layers": 2},
        "learning_rate": 5e-4,
        "warmup": 2.0,
        "weight_decay": 0.5,
        "betas": (0.5, 0.6),
        "ema": 0.5,
        "compiled": Alternative(True, given={"overrides": {**(task.overrides or {}), "num_hidden_layers": 2}}),
        "lora_rank": Alternative(2, given=pretrained),
        "lora_alpha": Alternative(1.0, given=adapted),
        "lora_dropout": Alternative(0.5, given=adapted),
        "lora_targets": Alternative([_a_linear_layer(case)], given=adapted),
        "train": [other],
        "validation": [other],
        "test": [other],
        "predict": [test],
        "text": Alternative(["the [MASK] sees a dog ."], given={"predict": None}),
        "tokenizer": str(_tokenizer(case)),
        "vocab_size": 90,
        "new_words": Alternative(str(_new_words(case)), given=pretrained),
        "max_length": 16,
        "batch_tokens": 128,
        "batch_size": 3,
        "weights": Alternative([1.0, 9.0], given={"train": [train, other]}),
        "columns": Alternative({first: "body"}, given=dict.fromkeys(("train", "validation", "test"), columns)),
        "validation_share": Alternative(0.4, given={"validation": None}),
        "test_share": Alternative(0.4, given={"test": None}),
        "num_workers": 2,
        "cache_dir": str(case.folder / "other_cache"),
    }


def _a_linear_layer(case: Case) -> str:
    network = case.loaded().network
    assert network is not None
    return next((name for name, each in network.named_modules() if isinstance(each, nn.Linear | Conv1D)), "")


def _new_words(case: Case) -> Path:
    """Words of letters that the texts have, which aren't in them as a whole."""
    path = case.folder / "new_words.txt"
    path.write_text("gardener\nthereunder\n")
    return path


def _backbone(case: Case) -> str:
    folder = case.folder / "backbone"
    if not folder.exists():
        with quiet():
            export(case.trained[1], folder, case.task_class, settings={})
    return str(folder)


def _tokenizer(case: Case) -> str:
    """One that was trained on other text."""
    data = case.data(train=[case.source("other")], vocab_size=100, tokenizer_algorithm="wordpiece")
    case.validation(data)
    folder = case.folder / "tokenizer"
    data.hf_tokenizer.save_pretrained(folder)
    return str(folder)


def _seen(case: Case, task_changes: Mapping[str, Any], data_changes: Mapping[str, Any]) -> Iterator[str]:
    """What can be seen of a task with these arguments: first of training, then of testing, then of predicting."""
    task, data = case.task(**task_changes), case.data(**data_changes)
    recorder = case.fit(task, data)
    assert task.network is not None
    training = {name: value for name, value in vars(recorder).items() if not name.startswith("_")}
    compiled = [name for name, each in task.named_modules() if each._compiled_call_impl is not None]
    # Not the stores' own names: they change with all that readers are told, whether it does anything or not.
    caches = [str(member.corpus.train.folder.parents[1]) for member in data.members().values()]
    yield digest([training, task.network.config.to_dict(), task.total_steps, compiled, caches])
    with quiet():
        tested = Recorder()
        has_test = all(member.corpus.test is not None for member in data.members().values())
        metrics = case.trainer(tested).test(task, case.data(**data_changes), verbose=False) if has_test else []
        yield digest([tested.validation_batches, metrics])
        yield digest(_predicted(case, task, data_changes))


def _predicted(case: Case, task: Any, data_changes: Mapping[str, Any]) -> Any:
    if not case.predicts:
        return None
    try:
        return case.trainer().predict(task, case.data(**data_changes))
    except UserError as error:
        return str(error)
