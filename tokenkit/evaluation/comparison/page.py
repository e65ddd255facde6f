"""The report as one HTML page that asks for nothing else: no scripts, fonts or images."""

from __future__ import annotations

import re
from typing import Any

from tokenkit.evaluation.comparison import tables, words
from tokenkit.evaluation.comparison.charts import Dot, bars, colour, dots, lines
from tokenkit.evaluation.comparison.markup import Child, Safe, tag
from tokenkit.evaluation.comparison.moved import EDGES
from tokenkit.evaluation.comparison.style import STYLE
from tokenkit.evaluation.comparison.tables import Cell, Report, Table

# Curves that are drawn: these alone, or those that begin so
SHOWN = ("lr", "grad_norm")
SHOWN_PREFIXES = ("validation/", "eval/", "gap_closed/", "loss")


def page(report: Report) -> str:
    """The whole page."""
    names = list(report["models"])
    title = " · ".join(names)
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", f"{title} – tokenkit compare"),
        tag("style", Safe(STYLE)),
    )
    body = tag(
        "body",
        tag("h1", "Models side by side" if len(names) > 1 else names[0]),
        legend(report),
        warnings(report),
        section("Summary", None, table(tables.summary(report))),
        bits(report),
        kept(report),
        tasks(report),
        cost(report),
        samples(report),
        rows(report),
        curves(report),
        method(report),
        tag("footer", "Made by tokenkit compare. All values are in report.json."),
    )
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def section(title: str, explained: str | None, *content: Child) -> Safe:
    """A part of the page."""
    return tag("section", tag("h2", title), tag("p", explained) if explained else None, *content)


def figure(title: str, drawing: Safe, caption: str | None = None) -> Safe:
    """A plot under its title."""
    return tag("figure", tag("figcaption", tag("b", title), caption), drawing)


def table(made: Table) -> Safe:
    """A table that scrolls where the screen is too narrow."""

    def cell(content: Cell) -> Safe:
        small = tag("small", f" {content.remark}") if content.remark else None
        return tag("td", content.words, small, class_="best" if content.best else None)

    head = tag(
        "thead", tag("tr", [tag("th", breakable(word), scope="col") for word in made.header])
    )
    lines = [tag("tr", [cell(item) for item in row]) for row in made.rows]
    return tag("div", tag("table", head, tag("tbody", lines)), class_="wide")


def breakable(name: str) -> list[Safe | str]:
    """A name that may be broken behind its separators."""
    parts = re.split(r"(?<=[_/.-])", name)
    return [piece for part in parts for piece in (part, tag("wbr"))][:-1]


def swatch(name: str, model: int) -> list[Safe | str]:
    """A model's name with its colour."""
    return [tag("span", class_=f"swatch {colour(model)}"), name]


def legend(report: Report) -> Safe:
    """The models and their colours; the teacher is marked."""
    items = []
    for model, name in enumerate(report["models"]):
        several = len(report["models"]) > 1
        badge = tag("span", "teacher", class_="badge") if name == report["teacher"] else None
        items.append(tag("li", swatch(name, model), badge if several else None))
    return tag("ul", items, class_="legend")


def warnings(report: Report) -> list[Safe]:
    """Differences of tokenizers that a reader must know of."""
    return [
        tag("div", found["text"], tag("span", found["why"]), class_="warning")
        for found in report["warnings"]
    ]


def value_dots(report: Report, values: dict[str, Any], form: str = ".3f") -> list[Dot]:
    """A dot for each model that has a value."""
    return [
        Dot(name, model, values[name]["value"], values[name]["stderr"], form)
        for model, name in enumerate(report["models"])
        if name in values
    ]


def bits(report: Report) -> Safe:
    """Bits per byte of each file, and the distance from the teacher."""
    files, several = report["bits_per_byte"], len(report["models"]) > 1
    whole = [(label, value_dots(report, file["models"])) for label, file in files.items()]
    plots = [figure("Bits per byte", dots("Bits per byte", "bits per byte", whole))]
    if several:
        apart = [
            (label, value_dots(report, {
                name: values["minus_teacher"]
                for name, values in file["models"].items() if name != report["teacher"]
            }, "+.3f"))
            for label, file in files.items()
        ]  # fmt: skip
        label = f"bits per byte less those of {report['teacher']}"
        plots.append(figure("Distance from the teacher", dots(label, label, apart, zero=True)))
    tables_shown = [table(tables.bits_table(report))]
    if several:
        tables_shown += [tag("p", words.DIFFERENCE), table(tables.difference_table(report))]
    grid = tag("div", plots, class_="grid")
    return section("Bits per byte", words.BITS, grid, tables_shown, left_out(report))


def left_out(report: Report) -> list[Safe]:
    """Documents that were not read, by name."""
    found = []
    for label, file in report["bits_per_byte"].items():
        if file["left_out"]:
            named = [f"{item['document']} (“{item['begins']}…”)" for item in file["left_out"]]
            text = f"Left out of {label}, since a tokenizer cannot write them: {', '.join(named)}."
            found.append(tag("p", text, class_="soft"))
    return found


def kept(report: Report) -> Safe | None:
    """How well the models predict what the teacher itself writes."""
    found = report["kept"]
    if not found:
        return None
    others = {
        name: values["minus_teacher"]
        for name, values in found["models"].items()
        if name != report["teacher"]
    }
    label = "bits per byte less the teacher's"
    plot = dots(
        "What was lost of the teacher", label, [("", value_dots(report, others, "+.3f"))], True
    )
    source = f"from {found['prompts']} prompts" if found["prompts"] else "from nothing"
    seed = report["settings"]["seed"]
    about = (
        f"{found['texts']:,} texts written by {report['teacher']} {source}, "
        f"{found['bytes']:,} bytes, seed {seed}; {found['left_out']} left out."
    )
    examples = [
        tag("div", tag("pre", tag("b", item["prompt"], class_="soft"), item["text"]))
        for item in found["written"][:2]
    ]
    return section(
        "What was kept", words.KEPT,
        tag("div", figure("Estimate of KL(teacher ‖ model)", plot), class_="grid"),
        table(tables.kept_table(report)), tag("p", about, class_="soft"),
        tag("div", tag("div", examples, class_="texts"), class_="sample"),
    )  # fmt: skip


def tasks(report: Report) -> Safe | None:
    """lm-eval's tasks."""
    if not report["tasks"]:
        return None
    groups = [(metric, value_dots(report, values)) for metric, values in report["tasks"].items()]
    plot = figure("Tasks", dots("Tasks", "value", groups))
    shown = table(tables.task_table(report))
    return section("Tasks", words.TASKS, tag("div", plot, class_="grid"), shown)


def cost(report: Report) -> Safe:
    """Speed and memory."""
    plots = []
    for key, title, label in (
        ("bytes_per_second", "Speed", "bytes of text per second"),
        ("cache_bytes_per_byte", "Memory", "bytes of KV cache per byte of text"),
    ):
        values = {
            name: {"value": found[key], "stderr": None}
            for name, found in report["cost"].items()
            if found[key] is not None
        }
        if values:
            drawing = dots(title, label, [("", value_dots(report, values, ",.0f"))], True)
            plots.append(figure(title, drawing))
    shown = [table(tables.cost_table(report)), tag("h3", "Bytes per token")]
    shown.append(table(tables.token_table(report)))
    grid = tag("div", plots, class_="grid")
    return section("Speed and memory of generation", words.COST, grid, shown)


def samples(report: Report) -> Safe | None:
    """What each model makes of the same prompts."""
    if not report["samples"]:
        return None
    boxes = []
    for sample in report["samples"]:
        texts = [
            tag("div", tag("b", swatch(name, model)), tag("pre", sample["texts"][name]))
            for model, name in enumerate(report["models"])
        ]
        prompt = tag("div", tag("pre", sample["prompt"]), class_="prompt")
        boxes.append(tag("div", prompt, tag("div", texts, class_="texts"), class_="sample"))
    return section("Samples", words.SAMPLES, boxes)


def rows(report: Report) -> Safe:
    """Rows of vocabularies that barely moved."""
    if not any(report["rows"].values()):
        text = "Not known: no model is a run, and no --start or --run says what rows began as."
        return section("Rows that barely moved", text)
    plots, lists = [], []
    labels = [f"<{100 * edge:.3g}%" for edge in EDGES[1:-1]] + ["more"]
    for model, (name, matrices) in enumerate(report["rows"].items()):
        for kind, found in (matrices or {}).items():
            title = f"{name}: {kind} rows by relative change"
            drawing = bars(title, "relative change", labels, found["histogram"]["all"], model)
            plots.append(figure(title, drawing))
            items = [
                tag("li", tag("code", item["token"]), " ",
                    tag("small", f"{100 * item['change']:.2g}%, {item['count']}×"))
                for item in found["least"] if item["count"]
            ]  # fmt: skip
            if items:
                lists.append(tag("h3", f"{name}, {kind}: least moved of the tokens in the data"))
                lists.append(tag("ul", items, class_="tokens"))
    shown = [table(tables.rows_table(report)), tag("div", plots, class_="grid"), lists]
    return section("Rows that barely moved", words.ROWS, shown)


def curves(report: Report) -> Safe | None:
    """Training curves, a plot a metric."""
    names = list(report["models"])
    metrics: dict[str, list] = {}
    for name, found in report["curves"].items():
        for metric, points in found.items():
            if metric in SHOWN or metric.startswith(SHOWN_PREFIXES):
                metrics.setdefault(metric, []).append((name, names.index(name), points))
    if not metrics:
        return None
    ordered = sorted(metrics, key=lambda metric: (metric in SHOWN, metric.startswith("loss")))
    plots = [figure(metric, lines(metric, "step", metrics[metric])) for metric in ordered]
    return section("Training", words.CURVES, tag("div", plots, class_="grid"))


def method(report: Report) -> Safe:
    """Models, tokenizers, data and settings."""
    items: list[tuple[str, str]] = []
    for name, model in report["models"].items():
        run = f"; run {model['run']}" if model["run"] and model["run"] != model["model"] else ""
        items.append((name, f"{model['model']}; tokenizer: {model['tokenizer']}{run}"))
    for label, file in report["bits_per_byte"].items():
        about = f"{file['file']}: {tables.documents(file)}, {file['bytes']:,} bytes"
        items.append((label, about))
    settings = report["settings"]
    items.append(("windows", f"{settings['max_bytes']:,} bytes, each scored token with context"))
    items.append(("lengths", f"samples up to {settings['sample_tokens']} tokens, "
                  f"the teacher's texts up to {settings['own_tokens']}"))  # fmt: skip
    items += [("seed", str(settings["seed"])), ("device", settings["device"])]
    listed = [[tag("dt", key), tag("dd", value)] for key, value in items]
    traits = tables.trait_rows(report)
    return section("How it was measured", None, tag("dl", listed), table(traits))
