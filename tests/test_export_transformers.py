"""The exported folder, read by transformers alone in a process of its own."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import pytest
import torch
import transformers
from exporting import TINY, Labels, link, save, trained
from ptm_lightning.tasks import (
    CausalLM,
    Denoising,
    MaskedLM,
    NextSentence,
    PermutationLM,
    ReplacedTokenDetection,
    SentenceOrder,
    SpanCorruption,
)
from transformers import BertForMaskedLM, PreTrainedModel

from ptm_lightning.data.tokenizer_training import Algorithm
from ptm_lightning.export import export
from ptm_lightning.task import Task
from ptm_lightning.testing_case import tiny

READER = """
import sys, torch, transformers
torch.set_num_threads(1)
from transformers import AutoTokenizer, pipeline
folders, output = sys.argv[1:-1], sys.argv[-1]
found = {}
for folder in folders:
    model = transformers.AutoModelForMaskedLM.from_pretrained(folder).eval()
    pipe = pipeline("fill-mask", model=folder)
    mask = pipe.tokenizer.mask_token
    texts = [f"the {mask} sat on the mat", "a dog"]
    batch = AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = model(**batch).logits
    found[folder] = {"ids": batch["input_ids"], "mask": batch["attention_mask"], "logits": logits,
                     "guesses": [(each["token"], each["score"]) for each in pipe(f"the {mask} sat on the mat")]}
    card = open(f"{folder}/README.md").read()
    exec(card.split("```python")[1].split("```")[0].replace("path/to/this/folder", folder))
assert not [name for name in sys.modules if name.startswith(("ptm_lightning", "lightning"))]
torch.save(found, output)
"""


READER_OF_ALL = """
import json, sys, torch, transformers
torch.set_num_threads(1)
classes, output = json.loads(sys.argv[1]), sys.argv[2]
inputs = torch.load(sys.argv[3])
found = {}
for folder, auto_class in classes.items():
    assert transformers.AutoTokenizer.from_pretrained(folder)("the cat")["input_ids"]
    model = getattr(transformers, auto_class).from_pretrained(folder).eval()
    more = {"decoder_input_ids": inputs["input_ids"].flip(1)} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        outputs = {name: value for name, value in model(**inputs, **more).items() if torch.is_tensor(value)}
    generated = None
    if model.config.model_type in ("gpt2", "t5", "bart"):
        generated = model.generate(**inputs, max_new_tokens=5, min_new_tokens=5, do_sample=False)
    found[folder] = {"class": type(model).__name__, "outputs": outputs, "generated": generated}
assert not [name for name in sys.modules if name.startswith(("ptm_lightning", "lightning"))]
torch.save(found, output)
"""


class Objective(NamedTuple):
    """An objective, and what transformers shall load of it."""

    task: type[Task]
    architecture: str
    algorithm: Algorithm
    auto_class: str
    network_class: str


OBJECTIVES = [
    Objective(MaskedLM, "roberta", "bpe", "AutoModelForMaskedLM", "RobertaForMaskedLM"),
    Objective(NextSentence, "bert", "wordpiece", "AutoModelForPreTraining", "BertForPreTraining"),
    Objective(SentenceOrder, "albert", "unigram", "AutoModelForPreTraining", "AlbertForPreTraining"),
    Objective(ReplacedTokenDetection, "electra", "wordpiece", "AutoModelForPreTraining", "ElectraForPreTraining"),
    Objective(PermutationLM, "xlnet", "xlnet", "AutoModelForCausalLM", "XLNetLMHeadModel"),
    Objective(CausalLM, "gpt2", "gpt2", "AutoModelForCausalLM", "GPT2LMHeadModel"),
    Objective(SpanCorruption, "t5", "unigram", "AutoModelForSeq2SeqLM", "T5ForConditionalGeneration"),
    Objective(Denoising, "bart", "bpe", "AutoModelForSeq2SeqLM", "BartForConditionalGeneration"),
]


class TextGeneration(Task):
    """A causal model, which has a generation config."""

    auto_class: ClassVar[str] = "AutoModelForCausalLM"
    data_class = MaskedLM.data_class


def logits(network: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = network(input_ids=torch.arange(20).view(2, 10)).logits
    return found


def test_transformers_alone_gives_the_same_logits_and_guesses(tmp_path: Path):
    networks: dict[str, PreTrainedModel] = {}
    algorithms: dict[str, Algorithm] = {
        "bert": "wordpiece", "roberta": "bpe", "modernbert": "wordpiece",
    }  # fmt: skip
    for architecture, algorithm in algorithms.items():
        task = MaskedLM(architecture=architecture, overrides=TINY)
        network, path = trained(task, link(algorithm), tmp_path / f"{architecture}.ckpt")
        networks[str(export(path, tmp_path / architecture, MaskedLM))] = network
    output = tmp_path / "found.pt"
    command = [sys.executable, "-I", "-c", READER, *networks, str(output)]
    reader = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert reader.returncode == 0, reader.stderr
    for folder, found in torch.load(output).items():
        network = networks[folder]
        with torch.no_grad():
            ours = network(input_ids=found["ids"], attention_mask=found["mask"]).logits
            row = network(input_ids=found["ids"][:1]).logits[0]
        torch.testing.assert_close(found["logits"], ours, rtol=0, atol=1e-5)
        mask_id = transformers.AutoTokenizer.from_pretrained(folder).mask_token_id
        scores = row[found["ids"][0] == mask_id][0].softmax(-1).topk(5)
        assert [token for token, _ in found["guesses"]] == scores.indices.tolist()
        assert [score for _, score in found["guesses"]] == pytest.approx(scores.values.tolist(), abs=1e-5)


def test_transformers_alone_loads_each_objective(tmp_path: Path):
    networks: dict[str, PreTrainedModel] = {}
    for objective in OBJECTIVES:
        name = objective.task.__name__
        task = objective.task(architecture=objective.architecture, overrides=tiny(objective.architecture))
        network, path = trained(task, link(objective.algorithm), tmp_path / f"{name}.ckpt")
        networks[str(export(path, tmp_path / name, objective.task))] = network
    classes = {folder: objective.auto_class for folder, objective in zip(networks, OBJECTIVES, strict=True)}
    inputs = {"input_ids": torch.arange(6, 26).view(2, 10), "attention_mask": torch.ones(2, 10, dtype=torch.long)}
    torch.save(inputs, tmp_path / "inputs.pt")
    files = [str(tmp_path / "found.pt"), str(tmp_path / "inputs.pt")]
    command = [sys.executable, "-I", "-c", READER_OF_ALL, json.dumps(classes), *files]
    reader = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert reader.returncode == 0, reader.stderr
    answers = 0
    for (folder, theirs), objective in zip(torch.load(files[0]).items(), OBJECTIVES, strict=True):
        assert theirs["class"] == objective.network_class
        network: Any = networks[folder]
        both_sides = network.config.is_encoder_decoder
        with torch.no_grad():
            ours = network(**inputs, **({"decoder_input_ids": inputs["input_ids"].flip(1)} if both_sides else {}))
        assert any("logits" in name for name in theirs["outputs"])
        for name, value in theirs["outputs"].items():
            torch.testing.assert_close(value, ours[name], rtol=0, atol=1e-5)
        if theirs["generated"] is not None:
            answers += 1
            again = network.generate(**inputs, max_new_tokens=5, min_new_tokens=5, do_sample=False)
            assert again.tolist() == theirs["generated"].tolist()
    assert answers == 3


def test_the_average_is_exported(tmp_path: Path):
    task = MaskedLM(overrides=TINY, ema=0.9)
    network, path = trained(task, link(), tmp_path / "a.ckpt")
    other = {name: torch.randn_like(value) for name, value in task.state_dict().items()}
    save(task, path, current_model_state=other)  # as Lightning's WeightAveraging has it
    loaded = BertForMaskedLM.from_pretrained(export(path, tmp_path / "model", MaskedLM))
    torch.testing.assert_close(logits(loaded.eval()), logits(network), rtol=0, atol=1e-5)


def test_a_generating_network_has_its_generation_config(tmp_path: Path):
    task = TextGeneration(architecture="gpt2", overrides={"n_embd": 16, "n_head": 2, "n_inner": 32})
    _, path = trained(task, link("bpe"), tmp_path / "a.ckpt")
    folder = export(path, tmp_path / "model", TextGeneration)
    assert "eos_token_id" in json.loads((folder / "generation_config.json").read_text())


def test_labels_are_named_in_the_config(tmp_path: Path):
    task = Labels(overrides=TINY | {"id2label": {0: "a", 1: "b", 2: "c"}})
    _, path = trained(task, link(labels=["bad", "so-so", "good"]), tmp_path / "a.ckpt")
    config = transformers.AutoConfig.from_pretrained(export(path, tmp_path / "model", Labels))
    assert config.id2label == {0: "bad", 1: "so-so", 2: "good"}
    assert config.label2id == {"bad": 0, "so-so": 1, "good": 2}
