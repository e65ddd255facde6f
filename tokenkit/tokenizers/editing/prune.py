"""Take tokens out of a tokenizer so that it can still write every text.

Of a BPE tokenizer, a token stays only if merges can still build it: with every kept token stay
those that its own merging goes through. Then the merges that are left build it in the same order
as before, and a word whose merging never left the kept tokens is encoded as before.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np

from tokenkit.errors import TokenizerError
from tokenkit.registry import did_you_mean
from tokenkit.tokenizers.alphabet import BYTE_CHARACTERS
from tokenkit.tokenizers.byteify import BYTE_PIECES
from tokenkit.tokenizers.editing.rebuild import NAMED_TOKENS, rebuild, state_of
from tokenkit.tokenizers.tokenizer import ByteifiedTokenizer

TEXTS = 256  # encoded at a time
# Settings of BPE under which tokens of the vocabulary are not what merges build.
FOREIGN = ("continuing_subword_prefix", "end_of_word_suffix", "dropout")


def prune(tok: ByteifiedTokenizer, keep: Iterable[int]) -> ByteifiedTokenizer:
    """The tokenizer with fewer tokens.

    Bytes, special tokens and what the family writes chats with stay in any case, and the tokens
    that merges go through on their way to a kept one. A token of a BPE vocabulary that its own
    merges do not build, and that the tokenizer therefore never uses, is dropped. Tokens keep
    their order; those outside of the model's vocabulary come last.

    Args:
        keep: ids of tokens to keep.

    Raises:
        TokenizerError: if an id is out of range, or the model is neither plain BPE nor Unigram.
    """
    keep = set(keep)
    outside = [i for i in keep if not 0 <= i < len(tok)]
    if outside:
        raise TokenizerError(
            f"id {outside[0]} is no token of '{tok.spec}', which has {len(tok)} tokens"
        )
    data = state_of(tok)
    model = data["model"]
    wanted = {t for t in tok.hf.convert_ids_to_tokens(sorted(keep)) if t is not None}
    wanted |= _always_kept(tok, data)
    if "merges" in model:
        kept = _prune_bpe(model, wanted, {token["content"] for token in data["added_tokens"]}, tok)
    elif model.get("type") == "Unigram":
        kept = _prune_unigram(model, wanted)
    else:
        raise TokenizerError(f"tokenizer '{tok.spec}': its model is not BPE or Unigram")
    ids = dict(kept)
    added = sorted(data["added_tokens"], key=lambda token: token["id"])
    data["added_tokens"] = [token for token in added if token["content"] in wanted]
    for token in data["added_tokens"]:
        token["id"] = ids.setdefault(token["content"], len(ids))
    return rebuild(tok, data)


def _always_kept(tok: ByteifiedTokenizer, data: dict[str, Any]) -> set[str]:
    """Vocabulary entries without which some text, or the family's chats, cannot be written."""
    special = {token["content"] for token in data["added_tokens"] if token["special"]}
    named = {getattr(tok.hf, name) for name in NAMED_TOKENS} | {data["model"].get("unk_token")}
    # A byte may be a piece ("▁" for a space), a byte-fallback piece that text with other pieces
    # missing is written with, or both.
    strings = tok.family.template_tokens() | set(BYTE_CHARACTERS)
    ids = {tok.ids[string] for string in strings if string in tok.ids} | tok.special_ids
    pieces = BYTE_PIECES.keys() if tok.kind == "sentencepiece" else set()
    entries = special | named | pieces | set(tok.hf.convert_ids_to_tokens(sorted(ids)))
    return entries & set(tok.hf.get_vocab())


def _prune_bpe(
    model: dict[str, Any], wanted: set[str], added: set[str], tok: ByteifiedTokenizer
) -> dict[str, int]:
    """Prune vocabulary and merges in place; returns the new vocabulary."""
    foreign = [key for key in FOREIGN if model.get(key)]
    if foreign:
        raise TokenizerError(
            f"tokenizer '{tok.spec}' has {foreign[0]} = {model[foreign[0]]!r}; only plain BPE can "
            "be pruned"
        )
    pairs = [m.split(" ") if isinstance(m, str) else m for m in model["merges"]]
    ranks = {(left, right): rank for rank, (left, right) in enumerate(pairs)}
    vocabulary = model["vocab"]
    kept = set()
    for token in wanted & set(vocabulary):
        built = merged(token, ranks, vocabulary)
        if token in built:
            kept |= built
        elif model.get("ignore_merges") or token in added or token in BYTE_PIECES:
            kept.add(token)  # found as a whole, not built
    model["merges"] = [
        [left, right] for left, right in pairs if {left, right, left + right} <= kept
    ]
    order = sorted(kept, key=vocabulary.__getitem__)
    model["vocab"] = {token: i for i, token in enumerate(order)}
    return model["vocab"]


def merged(token: str, ranks: dict[tuple[str, str], int], vocabulary: Collection[str]) -> set[str]:
    """All symbols that BPE goes through when it encodes a token's string, its end included.

    Characters without an entry become bytes, which no merge takes up.
    """
    symbols = list(token)
    seen = {symbol for symbol in symbols if symbol in vocabulary}
    while len(symbols) > 1:
        found = [ranks.get(pair, math.inf) for pair in zip(symbols, symbols[1:], strict=False)]
        rank = min(found)
        if rank == math.inf:
            break
        at = found.index(rank)
        symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]
        seen.add(symbols[at])
    return seen if len(symbols) == 1 else seen - {token}


def _prune_unigram(model: dict[str, Any], wanted: set[str]) -> dict[str, int]:
    """Prune the pieces in place; returns the new vocabulary."""
    unknown = model.get("unk_id")
    pieces = [
        (i, piece) for i, piece in enumerate(model["vocab"]) if piece[0] in wanted or i == unknown
    ]
    if unknown is not None:
        model["unk_id"] = [i for i, _ in pieces].index(unknown)
    model["vocab"] = [piece for _, piece in pieces]
    return {piece[0]: i for i, (_, piece) in enumerate(pieces)}


# What to keep ---------------------------------------------------------------------------------


def ids_of_entries(tok: ByteifiedTokenizer, entries: Sequence[str]) -> list[int]:
    """Ids of vocabulary entries as ``tokenizer.json`` writes them ("Ġthe", "▁the").

    Raises:
        TokenizerError: naming the first entry that the vocabulary does not have.
    """
    vocabulary = tok.hf.get_vocab()
    for entry in entries:
        if entry not in vocabulary:
            raise TokenizerError(
                f"'{entry}' is no token of '{tok.spec}'{did_you_mean(entry, list(vocabulary))} "
                "(write tokens as tokenizer.json does)"
            )
    return [vocabulary[entry] for entry in entries]


def most_frequent(tok: ByteifiedTokenizer, texts: Sequence[str], n: int) -> list[int]:
    """The ``n`` tokens (or all, if they are fewer) that texts have most often; the first of equals.

    Markers in the texts are text.
    """
    backend = tok.hf.backend_tokenizer
    counts = np.zeros(len(tok), np.int64)
    for begin in range(0, len(texts), TEXTS):
        batch = list(texts[begin : begin + TEXTS])
        for encoding in backend.encode_batch_fast(batch, add_special_tokens=False):
            np.add.at(counts, encoding.ids, 1)
    order = np.argsort(-counts, kind="stable")[:n]
    return order[counts[order] > 0].tolist()
