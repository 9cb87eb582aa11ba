"""The objectives of the presets at size tiny: `python objectives.py '{"what": "loop", "preset": "xlnet", ...}'`.

Each has its data module measured against its network, and the trainer's loop against a bare one on the same network.
GPT's and XLNet's have a peer besides: transformers.Trainer with its own collators, on text in blocks.
"""

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from agreement import built, differences
from clock import Clock, Job
from limits import measure_loop
from peers import PEER_DOCUMENTS, ROWS, blocks, counted, run_trainer, save, train_ours
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from ptm_lightning.data.batch import Batch
from ptm_lightning.data.task_data import TaskData
from ptm_lightning.plugins import find_class, load_plugins
from ptm_lightning.presets import read_layer
from ptm_lightning.task import Task


def parts(job: Job, **data: Any) -> tuple[type[Task], dict[str, Any], TaskData]:
    """The task of the job's preset with its arguments, and its data module with some of them changed."""
    load_plugins()
    values = read_layer(job.preset).values
    model = values["model"] | {"size": "tiny"}
    kind = find_class(model.pop("class_path"), Task, "model")
    settings = {**values["data"], "train": job.text, "cache_dir": job.cache, **data}
    for name in ("vocab_size", "max_length", "batch_tokens"):
        settings[name] = min(getattr(job, name), settings.get(name, getattr(job, name)))
    return kind, model, kind.data_class(**settings)


def loop(job: Job) -> dict[str, float]:
    """The objective as its preset has it; see `measure_loop`."""
    kind, model, data = parts(job)
    return measure_loop(job, kind(**model), data)


def prepare(job: Job) -> dict[str, float]:
    """Writes what ours and the peer start from: the tokenizer, the network, and text in blocks."""
    import datasets  # type: ignore[import-untyped]

    kind, model, data = parts(job)
    data.setup("fit")
    folder = _folder(job)
    save(built(kind(**model), data), data, folder)
    store = data.corpus.train
    rows = [
        [*store.tokens[store.offsets[i] : store.offsets[i + 1]].tolist(), *data.frame.after]
        for i in range(min(PEER_DOCUMENTS, len(store)))
    ]
    datasets.Dataset.from_dict({"input_ids": blocks(rows, job.max_length)}).save_to_disk(folder / "blocks")
    return {"vocabulary": data.link.vocabulary}


def ours(job: Job) -> dict[str, float]:
    """Our task on text in blocks, from the network that the peer starts from."""
    task, data = _from_folder(job)
    clock = train_ours(job, task, data)
    assert task.network is not None
    return clock.result(task.network)


def trainer(job: Job) -> dict[str, float]:
    """transformers.Trainer with its collator for the objective."""
    import datasets
    from transformers import DataCollatorForLanguageModeling, DataCollatorForPermutationLanguageModeling

    clock, tokenizer = Clock(), AutoTokenizer.from_pretrained(_folder(job))
    collator = (
        DataCollatorForPermutationLanguageModeling(tokenizer)
        if job.preset == "xlnet"
        else DataCollatorForLanguageModeling(tokenizer, mlm=False)
    )
    dataset = datasets.load_from_disk(_folder(job) / "blocks")
    return run_trainer(job, _network(job), dataset, partial(counted, collator, clock), clock)


def agree(job: Job) -> dict[str, float]:
    """`differences` of ours and of transformers' own loss."""
    task, data = _from_folder(job)
    data.setup("fit")
    batch = next(iter(data.val_dataloader()))
    return differences(job, task, data, batch, _network(job), _theirs(batch, job.preset))


def _theirs(batch: Batch, preset: str) -> dict[str, Tensor]:
    """The batch as transformers' own losses take it, of any layout without packing."""
    ids, real = batch["input_ids"], batch["document_ids"] > 0
    inputs = {"input_ids": ids, "attention_mask": real.long()}
    if preset != "xlnet":
        return inputs | {"labels": ids.masked_fill(~real, -100)}
    order = batch["order"]
    hidden = (order[:, :, None] <= order[:, None, :]) & (order[:, None, :] > 0)
    return inputs | {
        "token_type_ids": batch["token_type_ids"],
        "perm_mask": hidden.float(),
        "target_mapping": torch.eye(ids.shape[1]).repeat(len(ids), 1, 1),
        "labels": ids.masked_fill(order == 0, -100),
    }


def _folder(job: Job) -> Path:
    return Path(job.folder) / job.preset


def _network(job: Job) -> Any:
    return AutoModelForCausalLM.from_pretrained(_folder(job)).train()


def _from_folder(job: Job) -> tuple[Task, TaskData]:
    folder = str(_folder(job))
    batch = {"batch_tokens": ROWS * job.max_length, "layout": "blocks"}
    kind, _, data = parts(job, tokenizer=folder, max_length=job.max_length, **batch)
    return kind(backbone=folder), data


WORK: dict[str, Callable[[Job], dict[str, float]]] = {
    "loop": loop,
    "prepare": prepare,
    "agree": agree,
    "ours": ours,
    "trainer": trainer,
}

if __name__ == "__main__":
    given = Job(**json.loads(sys.argv[1]))
    print(json.dumps(WORK[given.what](given)))
