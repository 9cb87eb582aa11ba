import sys
from pathlib import Path

# Run from the checkout, not installed: their folder is the first on the path, as when they are run by name.
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
