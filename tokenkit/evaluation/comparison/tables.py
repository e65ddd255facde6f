"""The tables of a report, as rows of words: the page and the Markdown show the same."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Report = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """A value as it is shown: words, a smaller remark, and whether it is the best of its kind."""

    words: str
    remark: str = ""
    best: bool = False

    def plain(self) -> str:
        """In one line of text."""
        return f"{self.words} {self.remark}".strip()


@dataclass
class Table:
    """A header and rows; a row's first cell is its name."""

    header: list[str]
    rows: list[list[Cell]] = field(default_factory=list)


def number(value: float | None, digits: int = 3) -> str:
    """A number, "not known" for None."""
    return "not known" if value is None else f"{value:,.{digits}f}"


def with_error(value: dict[str, Any], digits: int = 3, sign: bool = False) -> Cell:
    """A value and its standard error."""
    words = f"{value['value']:+.{digits}f}" if sign else number(value["value"], digits)
    words = words.replace("-", "−")
    error = value["stderr"]
    return Cell(words, "" if error is None else f"± {error:.{digits}f}")


def size(count: float | None) -> str:
    """Bytes in the largest unit that leaves at least one."""
    if count is None:
        return "not known"
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if count >= 100 or unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def summary(report: Report) -> Table:
    """One column a model: what a reader wants to know first."""
    names, files, kept = list(report["models"]), report["bits_per_byte"], report["kept"]
    cost = report["cost"]

    def mean(name: str) -> str:
        values = [file["models"][name]["value"] for file in files.values()]
        return number(sum(values) / len(values))

    table = Table(["", *names])

    def add(title: str, cells: list[Cell]) -> None:
        table.rows.append([Cell(title), *cells])

    models = [report["models"][name] for name in names]
    add("parameters", [Cell(short_count(model["parameters"])) for model in models])
    add("tokens of the tokenizer", [Cell(f"{model['tokens']:,}") for model in models])
    title = "bits per byte" if len(files) == 1 else "bits per byte, mean of files"
    add(title, [Cell(mean(name)) for name in names])
    if kept:
        lost = [kept["models"][name]["minus_teacher"] for name in names]
        cells = [
            Cell("–") if name == report["teacher"] else with_error(value, sign=True)
            for name, value in zip(names, lost, strict=True)
        ]
        add("lost of the teacher, bits per byte", cells)
    add("bytes per token", [Cell(number(cost[name]["bytes_per_token"], 2)) for name in names])
    speeds = [number(cost[name]["bytes_per_second"], 0) for name in names]
    add("bytes of text written per second", list(map(Cell, speeds)))
    caches = [size(cost[name]["cache_bytes_per_byte"]) for name in names]
    add("KV cache per byte of text", list(map(Cell, caches)))
    return table


def short_count(count: int) -> str:
    """Parameters as people say them."""
    for limit, unit in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if count >= limit:
            return f"{count / limit:.3g}{unit}"
    return str(count)


def documents(file: dict[str, Any]) -> str:
    """How many documents of a file were read."""
    return f"{file['documents']:,} document{'s' * (file['documents'] != 1)}"


def bits_table(report: Report) -> Table:
    """Bits per byte of each model, a row a file; the lowest is marked."""
    names = list(report["models"])
    table = Table(["file", *names])
    for label, file in report["bits_per_byte"].items():
        lowest = min(file["models"][name]["value"] for name in names)
        row = [Cell(label, f"({documents(file)})")]
        for name in names:
            value = file["models"][name]
            cell = with_error(value, 4)
            best = len(names) > 1 and value["value"] == lowest
            row.append(Cell(cell.words, cell.remark, best))
        table.rows.append(row)
    return table


def difference_table(report: Report) -> Table:
    """Bits per byte less the teacher's, with the standard error of the difference."""
    names = [name for name in report["models"] if name != report["teacher"]]
    table = Table(["file", *names])
    for label, file in report["bits_per_byte"].items():
        differences = [file["models"][name]["minus_teacher"] for name in names]
        table.rows.append([Cell(label), *(with_error(d, 4, sign=True) for d in differences)])
    return table


def kept_table(report: Report) -> Table:
    """Bits per byte of the teacher's own texts."""
    table = Table(["model", "bits per byte", "less the teacher's"])
    for name, values in report["kept"]["models"].items():
        own = name == report["teacher"]
        lost = Cell("teacher") if own else with_error(values["minus_teacher"], 4, sign=True)
        table.rows.append([Cell(name), with_error(values, 4), lost])
    return table


def task_table(report: Report) -> Table:
    """Values of lm-eval's tasks, a row a metric."""
    names = list(report["models"])
    table = Table(["task and metric", *names])
    for metric, values in report["tasks"].items():
        cells = [with_error(values[n]) if n in values else Cell("not known") for n in names]
        table.rows.append([Cell(metric), *cells])
    return table


def token_table(report: Report) -> Table:
    """Bytes a token, a row a file."""
    names = list(report["models"])
    table = Table(["file", *names])
    for label, file in report["bits_per_byte"].items():
        cells = [Cell(number(file["models"][n]["bytes_per_token"])) for n in names]
        table.rows.append([Cell(label), *cells])
    return table


def cost_table(report: Report) -> Table:
    """Speed and memory of generation."""
    table = Table(
        ["model", "tokens per second", "bytes of text per second", "KV cache per token",
         "KV cache per byte of text"]
    )  # fmt: skip
    for name, cost in report["cost"].items():
        table.rows.append(
            [
                Cell(name),
                Cell(number(cost["tokens_per_second"], 1)),
                Cell(number(cost["bytes_per_second"], 1)),
                Cell(size(cost["cache_bytes_per_token"])),
                Cell(size(cost["cache_bytes_per_byte"])),
            ]
        )
    return table


def rows_table(report: Report) -> Table:
    """How many rows of each vocabulary have barely moved."""
    table = Table(["model", "matrix", "barely moved", "of those in the data", "median change"])
    for name, matrices in report["rows"].items():
        for kind, found in (matrices or {}).items():
            table.rows.append(
                [
                    Cell(name),
                    Cell(kind),
                    share(found["barely"], found["rows"]),
                    share(found["barely_in_data"], found["rows_in_data"]),
                    Cell(f"{100 * found['median_change']:.3g}%"),
                ]
            )
        if matrices is None:
            table.rows.append([Cell(name), *[Cell("not known")] * 4])
    return table


def share(part: int, whole: int) -> Cell:
    """A count and what it is of another."""
    return Cell(f"{part:,} of {whole:,}", f"({100 * part / whole:.1f}%)" if whole else "")


def trait_rows(report: Report) -> Table:
    """How each tokenizer treats what matters."""
    names = list(report["models"])
    table = Table(["tokenizer", *names])
    for trait in report["traits"][names[0]]:
        table.rows.append([Cell(trait), *(Cell(report["traits"][n][trait]) for n in names)])
    return table
