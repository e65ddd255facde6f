"""The command ``tokenkit transfer``, for a checkout that is not installed."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tokenkit.cli.transfer import main
from tokenkit.errors import run_main

if __name__ == "__main__":
    run_main(main)
