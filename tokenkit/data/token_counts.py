"""How often tokenizers use each of their tokens in a corpus, counted by several processes.

The corpus is cut into shards of rows. The counts of a finished shard are kept in a folder, so that
counting can be stopped at any time and goes on where it was.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm.auto import tqdm

from tokenkit.data.pieces import pieces
from tokenkit.data.read_row import RowFormat, plain_text
from tokenkit.data.sources import Source, local_files, open_source
from tokenkit.errors import DataError
from tokenkit.io import new_file
from tokenkit.tokenizers import ByteifiedTokenizer, load_tokenizer

SHARD_ROWS = 1000
# Longer texts are cut behind the last newline before this many characters, to bound memory.
PIECE_CHARACTERS = 1 << 20


@dataclass(frozen=True)
class Corpus:
    """Names of sources (see :mod:`tokenkit.data.sources`) and how their rows are read."""

    names: tuple[str, ...]
    split: str = "train"
    row_format: RowFormat = RowFormat()

    def open(self) -> list[Source]:
        """
        Raises:
            DataError: if a source is missing, unreadable or empty.
        """
        return [open_source(name, self.split, self.row_format.text_field) for name in self.names]

    def identity(self) -> dict[str, Any]:
        """What must be the same when counting goes on: names, format, and sizes of the files."""
        sizes = {
            str(path): path.stat().st_size
            for name in self.names
            if not name.startswith("hf:")
            for path in local_files(name)
        }
        return {**json.loads(json.dumps(asdict(self))), "sizes": sizes}


class Shard(NamedTuple):
    """Rows ``start`` to ``stop`` of a source."""

    number: int
    source: int
    start: int
    stop: int


@dataclass
class TokenCounts:
    """Counts of a corpus or a shard.

    Attributes:
        tokens: int64 ``[V]`` for each tokenizer.
        texts: number of rows with text.
        size: their UTF-8 bytes.
    """

    tokens: list[np.ndarray]
    texts: int
    size: int

    def save(self, path: Path) -> None:
        """Write an ``.npz`` file; it appears complete or not at all."""
        arrays: dict[str, Any] = {}
        for side, counts in enumerate(self.tokens):
            used = np.flatnonzero(counts)
            arrays[f"ids{side}"], arrays[f"counts{side}"] = used, counts[used]
        with new_file(path, "wb") as file:
            np.savez(file, total=np.array([self.texts, self.size]), **arrays)

    def add_saved(self, path: Path) -> None:
        with np.load(path) as arrays:
            for side, counts in enumerate(self.tokens):
                counts[arrays[f"ids{side}"]] += arrays[f"counts{side}"]
            texts, size = arrays["total"].tolist()
        self.texts, self.size = self.texts + texts, self.size + size


def count_shard(
    toks: list[ByteifiedTokenizer], source: Source, shard: Shard, row_format: RowFormat
) -> TokenCounts:
    """Count the tokens of some rows; markers are not added, conversations are their contents.

    Raises:
        DataError: if a row cannot be used.
    """
    rows = (source.read(index) for index in range(shard.start, shard.stop))
    texts = [text for row, where in rows if (text := plain_text(row, where, row_format))]
    counts = TokenCounts([np.zeros(len(tok), np.int64) for tok in toks], len(texts), 0)
    for text in texts:
        counts.size += len(text.encode())
    for tok, into in zip(toks, counts.tokens, strict=True):
        batch: list[str] = []
        length = 0
        for piece in (piece for text in texts for piece in pieces(text, PIECE_CHARACTERS)):
            batch.append(piece)
            length += len(piece)
            if length >= PIECE_CHARACTERS:
                _add(tok, batch, into)
                batch, length = [], 0
        _add(tok, batch, into)
    return counts


def _add(tok: ByteifiedTokenizer, texts: list[str], into: np.ndarray) -> None:
    if texts:
        into += np.bincount(
            np.concatenate(tok.encode_texts(texts, as_text=True)), minlength=len(into)
        )


class _Worker:
    """What a process needs to count shards, made once in each."""

    current: _Worker

    def __init__(
        self,
        toks: list[ByteifiedTokenizer],
        sources: list[Source],
        row_format: RowFormat,
        folder: Path,
    ) -> None:
        self.toks, self.sources, self.row_format, self.folder = toks, sources, row_format, folder

    def count(self, shard: Shard) -> Shard:
        counts = count_shard(self.toks, self.sources[shard.source], shard, self.row_format)
        counts.save(shard_path(self.folder, shard))
        return shard


def _start_process(specs: list[str], corpus: Corpus, folder: Path) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    toks = [load_tokenizer(spec) for spec in specs]
    _Worker.current = _Worker(toks, corpus.open(), corpus.row_format, folder)


def _count_in_process(shard: Shard) -> Shard:
    return _Worker.current.count(shard)


def shard_path(folder: Path, shard: Shard) -> Path:
    return folder / f"shard-{shard.number:06d}.npz"


def _cut(sources: list[Source], shard_rows: int) -> list[Shard]:
    cuts = [
        (number, start, min(start + shard_rows, len(source)))
        for number, source in enumerate(sources)
        for start in range(0, len(source), shard_rows)
    ]
    return [Shard(number, *cut) for number, cut in enumerate(cuts)]


def check_same_arguments(folder: Path, arguments: dict[str, Any]) -> None:
    """Note what a folder of finished shards belongs to, or compare it with what was noted.

    Raises:
        DataError: if the folder belongs to other arguments.
    """
    path = folder / "arguments.json"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with new_file(path) as file:
            file.write(json.dumps(arguments, indent=1) + "\n")
        return
    try:
        noted = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(noted, dict):
            raise ValueError("no object")
    except ValueError as error:
        raise DataError(
            f"'{path}' is damaged ({error}): delete the folder '{folder}' and count again"
        ) from error
    different = sorted(key for key in {*noted, *arguments} if noted.get(key) != arguments.get(key))
    if different:
        key = different[0]
        raise DataError(
            f"'{folder}' holds counts made with other arguments ({key} was {noted.get(key)}, is "
            f"{arguments.get(key)}); finish with those, delete the folder, or choose a new output"
        )


def count_corpus(
    toks: list[ByteifiedTokenizer],
    corpus: Corpus,
    folder: Path,
    workers: int = 1,
    shard_rows: int = SHARD_ROWS,
    progress: bool = False,
) -> TokenCounts:
    """Count the tokens of a corpus with several tokenizers.

    Args:
        folder: where the counts of finished shards are kept; shards found there are not counted
            again. Made if missing; the caller deletes it in the end.
        workers: number of processes; 1 counts in this process.
        shard_rows: rows a shard.
        progress: show a progress bar.

    Raises:
        DataError: if a source or a row is bad, there is no text at all, ``folder`` has counts made
            with other arguments, or a process dies.
    """
    sources = corpus.open()
    shards = _cut(sources, shard_rows)
    specs = [str(tok.spec) for tok in toks]
    arguments = {"tokenizers": specs, "shard_rows": shard_rows, **corpus.identity()}
    check_same_arguments(folder, arguments)
    missing = [shard for shard in shards if not shard_path(folder, shard).exists()]
    workers = min(workers, len(missing))
    if workers <= 1:
        worker = _Worker(toks, sources, corpus.row_format, folder)
        finished: Iterator[Shard] = map(worker.count, missing)
    else:
        finished = _count_in_processes(missing, workers, (specs, corpus, folder))
    rows, left = (sum(s.stop - s.start for s in part) for part in (shards, missing))
    with tqdm(
        total=rows, initial=rows - left, desc="counting", unit="text", disable=not progress
    ) as bar:
        for shard in finished:
            bar.update(shard.stop - shard.start)
    total = TokenCounts([np.zeros(len(tok), np.int64) for tok in toks], 0, 0)
    for shard in shards:
        total.add_saved(shard_path(folder, shard))
    if not total.texts:
        raise DataError(f"data {', '.join(corpus.names)}: no row has any text")
    return total


def _count_in_processes(shards: list[Shard], workers: int, arguments: tuple) -> Iterator[Shard]:
    # Spawned, because the threads of the tokenizers library do not survive a fork.
    executor = ProcessPoolExecutor(workers, get_context("spawn"), _start_process, arguments)
    try:
        for future in as_completed([executor.submit(_count_in_process, s) for s in shards]):
            yield future.result()
    except BrokenProcessPool as error:
        raise DataError(
            "a counting process died (out of memory?); start again with fewer workers or rows a "
            "shard, what is counted is kept"
        ) from error
    finally:
        executor.shutdown(cancel_futures=True)
