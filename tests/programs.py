"""Programs of the tests' own, each run by a Python of its own; of several processes, the first one prints."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any


def printed_by(script: str, folder: Path, *arguments: str, timeout: int = 240) -> Any:
    """Runs a script, on one thread a process, and gives the object that it prints as a line of JSON."""
    program = folder / "run.py"
    program.write_text(script)
    done = subprocess.run(
        [sys.executable, str(program), *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
