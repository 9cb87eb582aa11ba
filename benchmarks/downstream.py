"""Fine-tuning, predicting and answering beside the peers: `python downstream.py '{"what": "ours", ...}'`.

A BERT of the job's size, with weights drawn once, learns to classify, by us and by transformers.Trainer: with the
padding of its examples (all rows to the longest that is allowed), and with its best flags (rows of similar length
together, padded in each batch, the fused optimizer). Then the same classifier labels texts, by us and by transformers'
pipeline, and a small summarizer that was trained for a while answers in batches, sorted by length or as they come.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from clock import Clock, Job
from lightning.pytorch import Trainer
from peers import ROWS, counted, loss_and_gradient, run_trainer, train_ours
from ptm_lightning.tasks import (
    SequenceClassification,
    SequenceClassificationData,
    Summarization,
    SummarizationData,
)

from ptm_lightning.data.task_data import TaskData
from ptm_lightning.models.kernels import prepare_cpu
from ptm_lightning.task import Task
from ptm_lightning.terms import step_loss

PREDICTED = 200
"""Texts that are labelled, or answered, for each step of the job."""
ANSWER_TOKENS = 32
SUMMARIZER = {"d_model": 128, "encoder_layers": 2, "decoder_layers": 2, "init_std": 0.06}
LEARNED_STEPS = 20
"""Of the classifier, so that its answers differ."""
ANSWERING_STEPS = 30
"""Of the summarizer, for each step of the job, so that its answers end."""


def prepare(job: Job) -> dict[str, float]:
    """Writes what ours and the peers start from: a classifier that was trained for a while, and its rows."""
    folder, data = Path(job.folder), _our_data(job, vocab_size=job.vocab_size)
    task = SequenceClassification(size=job.size)
    train_ours(replace(job, steps=LEARNED_STEPS), task, data)
    _save(task, data, _classifier(job))
    store, names = data.corpus.train, data.link.labels
    rows = [(row["text"], names.index(row["label"])) for row in store.rows(range(len(store)))]
    (folder / "rows.json").write_text(json.dumps(rows))
    return {"rows": len(rows), "labels": len(names), "vocabulary": data.link.vocabulary}


def prepare_answers(job: Job) -> dict[str, float]:
    """Trains the summarizer that answers, until its answers end."""
    data = SummarizationData(
        train=job.text,
        vocab_size=min(job.vocab_size, 8192),
        max_length=256,
        max_target_length=ANSWER_TOKENS,
        cache_dir=job.cache,
    )
    task = Summarization(architecture="bart", overrides=SUMMARIZER)
    train_ours(replace(job, steps=ANSWERING_STEPS * job.steps), task, data)
    _save(task, data, Path(job.folder) / "summarizer")
    store = data.corpus.validation
    documents = [row["document"] for row in store.rows(range(len(store)))]
    (Path(job.folder) / "documents.json").write_text(json.dumps(documents))
    return {"documents": len(documents)}


def _save(task: Task, data: TaskData, folder: Path) -> None:
    assert task.network is not None
    task.network.save_pretrained(folder)
    data.hf_tokenizer.save_pretrained(folder)


def ours(job: Job) -> dict[str, float]:
    """Our fine-tuning, from the classifier that all start from."""
    task = SequenceClassification(backbone=str(_classifier(job)))
    clock = train_ours(job, task, _our_data(job))
    assert task.network is not None
    return clock.result(task.network)


def _our_data(job: Job, **more: Any) -> SequenceClassificationData:
    return SequenceClassificationData(
        **{"train": job.text, "max_length": job.max_length, "batch_size": ROWS, "cache_dir": job.cache} | more
    )


def trainer(job: Job, padding: str, **arguments: Any) -> dict[str, float]:
    """transformers.Trainer on the same rows.

    Args:
        job: What to do.
        padding: "max_length" or "longest", as the tokenizers' `pad` takes it.
        **arguments: Of TrainingArguments.
    """
    import datasets  # type: ignore[import-untyped]
    from transformers import AutoTokenizer, DataCollatorWithPadding

    tokenizer = AutoTokenizer.from_pretrained(_classifier(job))
    texts, labels = zip(*json.loads((Path(job.folder) / "rows.json").read_text()), strict=True)
    ids = tokenizer(list(texts), truncation=True, max_length=job.max_length)["input_ids"]
    dataset = datasets.Dataset.from_dict({"input_ids": ids, "labels": labels})
    collator = DataCollatorWithPadding(tokenizer, padding=padding, max_length=job.max_length)
    clock = Clock()
    return run_trainer(job, _network(job).train(), dataset, partial(counted, collator, clock), clock, **arguments)


def agree(job: Job) -> dict[str, float]:
    """Loss and gradient of ours and of transformers' own loss on one batch, same weights, no dropout."""
    data = _our_data(job)
    data.setup("fit")
    batch = next(iter(data.val_dataloader()))
    task = SequenceClassification(backbone=str(_classifier(job)))
    network, real = _network(job).train(), batch["document_ids"] > 0
    inputs = {"input_ids": batch["input_ids"], "attention_mask": real.long(), "labels": batch["labels"]}
    theirs = loss_and_gradient(job, network, lambda: network(**inputs).loss)
    task.link = data.link
    task.configure_model()
    assert task.network is not None
    mine = loss_and_gradient(job, task.network, lambda: step_loss(task.terms(batch), batch["counts"]))
    return {"loss": abs(mine[0] - theirs[0]), "gradient": float((mine[1] - theirs[1]).norm() / theirs[1].norm())}


def predict(job: Job) -> dict[str, float]:
    """Our labels of some texts, from files to answers."""
    prepare_cpu("auto", allocator=True)
    data = SequenceClassificationData(text=_texts(job), max_length=job.max_length)
    task = SequenceClassification(backbone=str(_classifier(job)))
    with _trainer() as trainer, _timed(job, "predict") as answers:
        found: Any = trainer.predict(task, data)
        answers += [row["prediction"] for rows in found for row in rows]
    return _speed(job, "predict")


def pipeline(job: Job) -> dict[str, float]:
    """The same by transformers' pipeline."""
    import transformers

    make: Any = transformers.pipeline
    classify = make("text-classification", model=str(_classifier(job)), device="cpu", batch_size=ROWS)
    with _timed(job, "pipeline") as answers:
        answers += [found["label"] for found in classify(_texts(job), truncation=True, max_length=job.max_length)]
    return _speed(job, "pipeline")


def answer(job: Job) -> dict[str, float]:
    """Our answers to some documents, as validation and prediction give them."""
    prepare_cpu("auto", allocator=True)
    data = SummarizationData(text=_documents(job), max_length=256)
    task = Summarization(backbone=str(Path(job.folder) / "summarizer"), max_new_tokens=ANSWER_TOKENS)
    with _trainer() as trainer, _timed(job, "answer") as answers:
        found: Any = trainer.predict(task, data)
        answers += [row["prediction"] for rows in found for row in rows]
    return _speed(job, "answer")


def generate(job: Job) -> dict[str, float]:
    """The same by transformers' generate on batches in the order of the data."""
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    folder = Path(job.folder) / "summarizer"
    tokenizer, network = AutoTokenizer.from_pretrained(folder), AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    with _timed(job, "generate") as answers:
        documents = _documents(job)
        for begin in range(0, len(documents), ROWS):
            options: Any = {"padding": True, "truncation": True, "max_length": 256, "return_tensors": "pt"}
            inputs = tokenizer(documents[begin : begin + ROWS], **options)
            ids = network.generate(inputs["input_ids"], attention_mask=inputs["attention_mask"])
            answers += [text.strip() for text in tokenizer.batch_decode(ids, skip_special_tokens=True)]
    return _speed(job, "generate")


def _classifier(job: Job) -> Path:
    return Path(job.folder) / "classifier"


def _network(job: Job) -> Any:
    from transformers import AutoModelForSequenceClassification

    return AutoModelForSequenceClassification.from_pretrained(_classifier(job))


def _texts(job: Job) -> list[str]:
    rows = json.loads((Path(job.folder) / "rows.json").read_text())
    return [text for text, _ in rows[: PREDICTED * job.steps]]


def _documents(job: Job) -> list[str]:
    documents: list[str] = json.loads((Path(job.folder) / "documents.json").read_text())
    return documents[: PREDICTED * job.steps]


@contextmanager
def _trainer() -> Iterator[Trainer]:
    with TemporaryDirectory() as scratch:
        yield Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=scratch)


@contextmanager
def _timed(job: Job, name: str) -> Iterator[list[str]]:
    """Answers, to be filled in; they and the seconds are written down for `_speed` and `same_answers`."""
    answers: list[str] = []
    begin = time.perf_counter()
    yield answers
    seconds = time.perf_counter() - begin
    (Path(job.folder) / f"{name}.json").write_text(json.dumps({"answers": answers, "seconds": seconds}))


def _speed(job: Job, name: str) -> dict[str, float]:
    found = json.loads((Path(job.folder) / f"{name}.json").read_text())
    return {"answers_per_second": len(found["answers"]) / float(found["seconds"])}


def same_answers(folder: Path, one: str, other: str) -> float:
    """The share of answers that two ways of answering have in common, of a benchmark's folder."""
    pairs = zip(*(json.loads((folder / f"{name}.json").read_text())["answers"] for name in (one, other)), strict=True)
    same: list[bool] = [mine == theirs for mine, theirs in pairs]
    return sum(same) / len(same)


WORK: dict[str, Callable[[Job], dict[str, float]]] = {
    "prepare": prepare,
    "prepare_answers": prepare_answers,
    "agree": agree,
    "ours": ours,
    "trainer": partial(trainer, padding="max_length"),
    "grouped": partial(trainer, padding="longest", train_sampling_strategy="group_by_length"),
    "predict": predict,
    "pipeline": pipeline,
    "answer": answer,
    "generate": generate,
}

if __name__ == "__main__":
    given = Job(**json.loads(sys.argv[1]))
    print(json.dumps(WORK[given.what](given)))
