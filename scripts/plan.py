"""The command ``tokenkit plan``, for a checkout that is not installed."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tokenkit.cli.plan import main
from tokenkit.failure import run_rank

if __name__ == "__main__":
    run_rank(main)
