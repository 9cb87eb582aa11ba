"""What this machine could do at best, and what our data cost: `python limits.py '{"what": "matmul", ...}'`."""

import json
import shutil
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from clock import WARM_UP, Job
from lightning.pytorch import Callback
from peers import LOG_EVERY, our_data, train_ours
from ptm_lightning.callbacks import Checkpoints, ExportBest, GracefulStop, Overview, Plots
from ptm_lightning.tasks import MaskedLM

from ptm_lightning.data.batch import Batch
from ptm_lightning.data.plan import Plan
from ptm_lightning.data.sources import read, resolve
from ptm_lightning.data.store import build_stores
from ptm_lightning.data.task_data import TaskData
from ptm_lightning.data.tokenizer import load_tokenizer, plain
from ptm_lightning.task import Task
from ptm_lightning.terms import Ratio, Term, step_loss

SHAPES = [(1024, 1024, 1024), (4096, 1024, 1024), (4096, 256, 1024), (600, 256, 30_522)]
"""Matrix products (m, k, n): large ones, and those of the benchmark's network."""
REPEATS = 15
GROUP_BYTES = 1_000_000
"""Text in a call of the bare tokenizer."""
SAMPLE_SECONDS = 0.02
UNSEEN_EPOCH = 1000
"""One whose documents aren't laid out yet."""


def matmul(job: Job) -> dict[str, float]:
    """The best matrix product of the job's precision over shapes and libraries, in FLOP/s."""
    dtype = torch.bfloat16 if job.precision == "bf16" else torch.float32
    best = 0.0
    for precision in ("highest", "medium"):
        torch.set_float32_matmul_precision(precision)
        for m, k, n in SHAPES:
            left, right = torch.randn(m, k).to(dtype), torch.randn(k, n).to(dtype)
            best = max(best, 2 * m * k * n / _least_seconds(lambda a=left, b=right: a @ b))  # type: ignore[misc]
    return {"flops_per_second": best}


def _least_seconds(call: Callable[[], object]) -> float:
    least = float("inf")
    for _ in range(REPEATS):
        begin = time.perf_counter()
        call()
        least = min(least, time.perf_counter() - begin)
    return least


def loop(job: Job) -> dict[str, float]:
    """Masked tokens with a tiny network; see `measure_loop`."""
    return measure_loop(job, MaskedLM(size="tiny"), our_data(job))


class Idle(MaskedLM):  # type: ignore[misc]  # mypy knows the tasks by another name
    """The loss is a sum of one bias, so that nearly all of a step is the loop's."""

    def terms(self, batch: Batch) -> Mapping[str, Term | Ratio]:
        """The sum, under the name of the batch's count."""
        return {"mlm": Term(min(self.parameters(), key=torch.numel).sum(), batch["counts"]["mlm"])}


def idle_loop(job: Job) -> dict[str, float]:
    """The same without a network, so that the loop is left, and with all callbacks of the command line.

    A short run would be saved every few steps, which costs more than they do: none is saved before the end.
    """
    others = (Overview(), Plots(job.folder), ExportBest(), GracefulStop(), Checkpoints(every_n_steps=10**9))
    return measure_loop(job, Idle(size="tiny"), our_data(job), *others)


def measure_loop(job: Job, task: Task, data: TaskData, *others: Callback) -> dict[str, float]:
    """The trainer's loop against a bare one, and the data module against what the network eats.

    Args:
        job: The work.
        task: The network.
        data: Its data.
        others: Callbacks beside those that look at each step.

    Returns:
        "overhead": seconds of a step over those of a bare loop with the same data, loss, clipping and optimizer;
        "overhead_seconds": what they are more;
        "loader": batches per second that the data module prepares, with its share of laying out the documents, over
        those that the network trains on.
    """
    trained = _seconds_of_step(train_ours(job, task, data, *others).ended)
    optimizer = task.build_optimizer()
    task.train()
    ended = []
    for batch in islice(data.train_dataloader(), WARM_UP + job.steps):
        step_loss(task.terms(batch), batch["step_counts"]).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(task.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        ended.append(time.perf_counter())
    bare = _seconds_of_step(ended)
    begin = time.perf_counter()
    for _ in islice(data.train_dataloader(), job.steps):
        pass
    prepared = (time.perf_counter() - begin) / job.steps
    begin = time.perf_counter()
    assert isinstance(data.plan, Plan)
    laid_out = data.plan.chunk(UNSEEN_EPOCH, 0)
    prepared += (time.perf_counter() - begin) / len(laid_out.batches)
    return {"overhead": trained / bare, "overhead_seconds": trained - bare, "loader": trained / prepared}


def _seconds_of_step(ended: list[float]) -> float:
    """The median over stretches of steps, in each of which the log is written once; the warm-up is left out."""
    counted = ended[WARM_UP - 1 :]
    size = min(LOG_EVERY, len(counted) - 1)
    stretches = zip(counted[::size], counted[size::size], strict=False)
    return statistics.median((end - begin) / size for begin, end in stretches)


def efficiency(job: Job) -> dict[str, float]:
    """FLOP/s of training a network of size small without dropout, over those of the best matrix product."""
    best = matmul(job)["flops_per_second"]
    task = MaskedLM(size="small", overrides={"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0})
    clock = train_ours(job, task, our_data(job))
    assert task.network is not None
    return {"efficiency": clock.result(task.network)["flops_per_second"] / best}


def _texts(job: Job) -> Iterator[str]:
    """The corpus's first documents."""
    size = 0
    for source in resolve(job.text, "--text"):
        for row in read(source, "--text"):
            yield row["text"]
            size += len(row["text"].encode())
            if size > job.text_bytes:
                return


def tokenizing(job: Job) -> dict[str, float]:
    """Seconds of a bare `encode_batch_fast` on all cores over those of building a token store, the same text in both.

    Returns:
        "store": 1 if the store keeps up.
    """
    texts, tokenizer = list(_texts(job)), plain(load_tokenizer(job.folder))
    folder = Path(job.folder) / "store"
    _encode(texts[:100], tokenizer)
    begin = time.perf_counter()
    _encode(texts, tokenizer)
    bare = time.perf_counter() - begin
    shutil.rmtree(folder, ignore_errors=True)
    begin = time.perf_counter()
    build_stores(iter(texts), tokenizer, folder, validation_share=0.02)
    return {"store": bare / (time.perf_counter() - begin)}


def _encode(texts: list[str], tokenizer: Any) -> None:
    group: list[str] = []
    size = 0
    for text in texts:
        group.append(text)
        if (size := size + len(text)) > GROUP_BYTES:
            tokenizer.encode_batch_fast(group, add_special_tokens=False)
            group, size = [], 0
    tokenizer.encode_batch_fast(group, add_special_tokens=False)


def memory(job: Job, copies: int) -> dict[str, float]:
    """The most anonymous memory while a token store is built, and while a tiny network trains on it, in MB.

    Args:
        job: The work.
        copies: How many times as large as the text the corpus is; copies differ in every line and sentence.
    """
    folder = Path(job.folder) / f"memory-{copies}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    with open(folder / "corpus.jsonl", "w") as file:
        for copy in range(copies):
            for text in _texts(job):
                marked = text.replace(".", f" {copy}.").replace("\n", f" {copy}\n")
                file.write(json.dumps({"text": marked}) + "\n")
    work = replace(job, text=[str(folder / "corpus.jsonl")], cache=str(folder / "cache"))
    with _most_anonymous() as building:
        our_data(work).prepare_data()
    with _most_anonymous() as training:
        train_ours(work, MaskedLM(size="tiny"), our_data(work))
    return {"building": building[0], "training": training[0]}


@contextmanager
def _most_anonymous() -> Iterator[list[float]]:
    """The list's number is the peak of this process's anonymous memory, in MB."""
    peak, done = [0.0], threading.Event()

    def watch() -> None:
        while not done.wait(SAMPLE_SECONDS):
            lines = Path("/proc/self/status").read_text().splitlines()
            now = next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))
            peak[0] = max(peak[0], now / 1024)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()


WORK: dict[str, Callable[[Job], dict[str, float]]] = {
    "matmul": matmul,
    "loop": loop,
    "idle loop": idle_loop,
    "efficiency": efficiency,
    "tokenizing": tokenizing,
    "memory 1x": lambda job: memory(job, 1),
    "memory 10x": lambda job: memory(job, 10),
}

if __name__ == "__main__":
    given = Job(**json.loads(sys.argv[1]))
    print(json.dumps(WORK[given.what](given)))
