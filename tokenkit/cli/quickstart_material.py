"""What the quickstart works with: a corpus, two tokenizers, the shape of a small model."""

from __future__ import annotations

import hashlib
import json
import sys
import sysconfig
from pathlib import Path

from tokenkit.errors import TokenkitError
from tokenkit.io import new_file, new_folder

SKIPPED = {"test", "tests", "idlelib", "lib2to3", "site-packages", "dist-packages"}
WORDS_A = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
WORDS_B = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def documents(limit: int) -> list[str]:
    """Pieces of about 1,200 characters of the standard library's sources, cut at line ends."""
    library = Path(sysconfig.get_paths()["stdlib"])
    pieces: list[str] = []
    for path in sorted(library.rglob("*.py")):
        if SKIPPED & set(path.relative_to(library).parts):
            continue
        piece = ""
        for line in path.read_text(encoding="utf-8", errors="ignore").splitlines(keepends=True):
            piece += line
            if len(piece) >= 1200:
                pieces.append(piece)
                piece = ""
    # By content, so that train and held-out sets do not depend on where Python is installed.
    pieces.sort(key=lambda piece: hashlib.sha1(piece.encode()).digest())
    if len(pieces) < 100:
        raise TokenkitError(f"'{library}' holds no sources of the standard library to learn")
    return pieces[:limit]


def write_rows(path: Path, texts: list[str]) -> None:
    """JSON Lines; a file of that name is always complete."""
    with new_file(path) as file:
        file.writelines(json.dumps({"text": text}) + "\n" for text in texts)


def write_corpus(folder: Path, limit: int) -> None:
    """``train.jsonl`` and ``held_out.jsonl``."""
    if (folder / "train.jsonl").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    texts = documents(limit)
    held_out = max(8, len(texts) // 50)
    write_rows(folder / "held_out.jsonl", texts[:held_out])
    write_rows(folder / "train.jsonl", texts[held_out:])
    size = sum(map(len, texts)) / 1e6
    print(f"corpus: {len(texts):,} documents, {size:.1f} MB of Python's standard library")


def train_tokenizer(corpus: Path, folder: Path, words: str, size: int) -> None:
    """A byte-level BPE tokenizer as a Hugging Face folder."""
    if (folder / "tokenizer.json").exists():
        return
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(words), "isolated")
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, to_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=sys.stderr.isatty(),
    )
    texts = [json.loads(line)["text"] for line in corpus.read_text("utf-8").splitlines()]
    tokenizer.train_from_iterator(texts, trainer)
    settings = {"tokenizer_class": "PreTrainedTokenizerFast"}
    with new_folder(folder) as partial:
        tokenizer.save(str(partial / "tokenizer.json"))
        (partial / "tokenizer_config.json").write_text(json.dumps(settings))
    print(f"tokenizer {folder.name}: {tokenizer.get_vocab_size():,} tokens")


def write_model_config(folder: Path, quick: bool) -> None:
    """config.json of a small Llama; training draws its weights."""
    from transformers import LlamaConfig

    width, layers = (64, 2) if quick else (192, 4)
    config = LlamaConfig(
        hidden_size=width,
        intermediate_size=width * 8 // 3 // 16 * 16,
        num_hidden_layers=layers,
        num_attention_heads=width // 32,
        num_key_value_heads=width // 32,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        architectures=["LlamaForCausalLM"],
    )
    config.save_pretrained(folder)
