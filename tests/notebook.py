"""Run a notebook without Jupyter; as a program, put what its cells print into the file.

TOKENKIT_TOKENIZERS=folder python -m tests.notebook examples/alm_from_scratch.ipynb
"""

from __future__ import annotations

import io
import json
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any


def execute(path: Path) -> dict[str, Any]:
    """The notebook with the outputs of its cells: what is printed, and what is displayed as SVG.

    Raises whatever a cell raises.
    """
    notebook = json.loads(path.read_text(encoding="utf-8"))
    names: dict[str, Any] = {"__name__": "__main__"}
    number = 0
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code":
            continue
        number += 1
        outputs: list[dict[str, Any]] = []

        def display(shown: Any, outputs: list = outputs) -> None:
            data = {"image/svg+xml": lines(shown._repr_svg_()), "text/plain": ["<AlignedPair>"]}
            outputs.append({"output_type": "display_data", "metadata": {}, "data": data})

        printed = io.StringIO()
        names["display"] = display
        with redirect_stdout(printed):
            exec(compile("".join(cell["source"]), f"{path.name}, cell {number}", "exec"), names)
        if printed.getvalue():
            text = lines(printed.getvalue())
            outputs.append({"output_type": "stream", "name": "stdout", "text": text})
        cell["execution_count"], cell["outputs"] = number, outputs
    return notebook


def lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def main() -> None:
    path = Path(sys.argv[1])
    made = json.dumps(execute(path), indent=1, ensure_ascii=False)
    path.write_text(made + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
