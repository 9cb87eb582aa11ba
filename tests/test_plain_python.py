"""README's lines of plain Python, with Lightning's own Trainer: killed and started again, they end in the same bits."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
LINES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)[0].replace("max_steps=20", "max_steps=50")
LAST = Path("from_python") / "last.ckpt"


def weights() -> dict[str, torch.Tensor]:
    found = torch.load(LAST, weights_only=True)
    assert found["global_step"] == 50
    return found["state_dict"]


def test_a_killed_run_goes_on_to_the_same_bits(tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "corpus.txt").write_text(corpus.read_text())
    monkeypatch.chdir(tmp_path / "whole")
    exec(LINES, {})
    whole = weights()

    monkeypatch.chdir(tmp_path / "killed")
    same = f"import torch; torch.set_num_threads({torch.get_num_threads()}); "  # and the kernels that tests have chosen
    same += f"torch.set_float32_matmul_precision('{torch.get_float32_matmul_precision()}')\n"
    victim = subprocess.Popen([sys.executable, "-c", same + LINES], stderr=subprocess.DEVNULL)
    while victim.poll() is None and not LAST.exists():
        time.sleep(0.005)
    os.kill(victim.pid, signal.SIGKILL)
    assert victim.wait() == -signal.SIGKILL
    assert torch.load(LAST, weights_only=True)["global_step"] < 50
    exec(LINES, {})
    assert all(weight.equal(whole[name]) for name, weight in weights().items())
