"""Starting is quick: what a command does not need it does not import, and what stays is no work for the collector."""

import json
import subprocess
import sys
from pathlib import Path

NEEDED_BY_FEW = {
    "datasets",
    "nltk",
    "pandas",
    "peft",
    "pyarrow",
    "rouge_score",
    "sacrebleu",
    "sklearn",
    "spacy",
    "tensorboard",
    "wandb",
}
PROGRAM = f"""
import gc, json, sys
from ptm_lightning.__main__ import main
found = []
for arguments in json.loads(sys.argv[1]):
    assert main(arguments) == 0
    heavy = sorted({NEEDED_BY_FEW} & set(sys.modules))
    found.append((heavy, gc.get_freeze_count(), gc.isenabled()))
print(json.dumps(found))
"""


def test_help_and_a_run_import_only_what_they_need_and_freeze_it_once(corpus: Path, tmp_path: Path) -> None:
    commands = [["fit", "--help"], ["fit", "--dry_run", f"--data.train={corpus}", "--data.vocab_size=600"]]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(commands)], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    helped, ran = json.loads(done.stdout.splitlines()[-1])
    assert (helped[0], ran[0]) == ([], [])
    assert helped[1] > 100_000
    assert ran[1] <= helped[1]
    assert (helped[2], ran[2]) == (True, True)
