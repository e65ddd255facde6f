"""Cover sets: the texts in which a tokenizer does not stop where a given token ends.

A text that begins with token ``p`` is not always cut after ``p``: "er" may go on as "er" + "ror" or
as "error". The cover set of ``p`` holds every text ``p + extension`` (extension not empty) that is
tokenized as the tokens of some ``p[:i]`` and one last token, which begins inside ``p`` and reaches
to the end of the extension. Where next tokens are predicted after ``p``, these texts cannot occur
any more; see "Exact Byte-Level Probabilities from Tokenized Language Models" (Phan et al., 2024,
arXiv 2410.09303) for cover encodings and the bias they explain.

For a token ``p`` with the prefixes ``p[:i]``, the set is a union of groups ``(c, p[i:])``, where
``c`` is what decides which tokens may come after ``p[:i]``: in BPE, its last token. Most groups are
shared by many tokens, so each is computed and stored once.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from tqdm.auto import tqdm

from tokenkit.tokenizers.alphabet import CHARACTER_BYTES, literal_bytes
from tokenkit.tokenizers.pairs.bpe import FollowRule, merge_tree
from tokenkit.tokenizers.tokenizer import ByteifiedTokenizer

_LAST = "\U0010ffff"  # sorts after every text


@dataclass
class CoverSets:
    """Cover sets of many tokens.

    Attributes:
        token_bounds: int64 ``[V + 1]``; token t owns ``groups`` from ``token_bounds[t]`` on.
        groups: int64, numbers of groups.
        group_bounds: int64 ``[G + 1]``; group g holds the members from ``group_bounds[g]`` on.
        extensions: int32 ``[M]``, number of each member's extension.
        last: int32 ``[M]``, id of each member's last token.
    """

    token_bounds: np.ndarray
    groups: np.ndarray
    group_bounds: np.ndarray
    extensions: np.ndarray
    last: np.ndarray

    def groups_of(self, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Groups of tokens ``[N]``, all in one array, and how many each token has ``[N]``."""
        begin, end = self.token_bounds[tokens], self.token_bounds[tokens + 1]
        return self.groups[joined_ranges(begin, end)], end - begin

    def members_of(self, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Members of groups ``[N]``, all in one array, and how many each group has ``[N]``."""
        begin, end = self.group_bounds[groups], self.group_bounds[groups + 1]
        return joined_ranges(begin, end), end - begin


def joined_ranges(begin: np.ndarray, end: np.ndarray) -> np.ndarray:
    """``begin[0] … end[0]-1, begin[1] … end[1]-1, …`` as one int64 array."""
    sizes = end - begin
    shift = begin - np.cumsum(sizes) + sizes
    return np.repeat(shift, sizes) + np.arange(int(sizes.sum()))


def is_byteified(token: str) -> bool:
    """Whether a token is written in the byte alphabet (special tokens need not be)."""
    return bool(token) and all(character in CHARACTER_BYTES for character in token)


class Extensions:
    """Numbers for the texts that tokens may end with, shared by two vocabularies."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self.numbers)

    def table(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Number every proper ending of each text.

        Returns:
            ``offsets`` int64 ``[N]`` and ``table`` int32, so that ``table[offsets[n] + i]`` is
            the number of ``texts[n][i:]``.
        """
        numbers = self.numbers
        table = [numbers.setdefault(t[i:], len(numbers)) for t in texts for i in range(len(t))]
        lengths = np.array([len(text) for text in texts], np.int64)
        return np.cumsum(lengths) - lengths, np.array(table, np.int32)


class Context(NamedTuple):
    """What decides which tokens may come next."""

    last: int | None  # the last token; None where only the tokenizer itself can tell
    begin: str = ""  # the text so far, where that matters, too


START = Context(None)


class _Vocabulary:
    """The tokens that are text, in alphabetical order, and which of them may follow what."""

    def __init__(self, tok: ByteifiedTokenizer) -> None:
        self.tok = tok
        self.texts = sorted(token for token in tok.ids if is_byteified(token) and _is_utf8(token))
        self.ids = np.array([tok.ids[text] for text in self.texts], np.int64)
        spelt = tok.tokenize_bytes_batch(self.texts)
        self.alone = np.array(
            [ids == [i] for ids, i in zip(spelt, self.ids.tolist(), strict=True)], bool
        )
        tree = merge_tree(tok)
        self.rule = None if tree is None else FollowRule(tree)
        # Words that are cut nowhere although merges do not build them: the rule, which knows
        # merges alone, must not find an end of a token inside or after them.
        self.uncut: dict[str, set[str]] = {}
        if tree is not None:
            self.place = self.rule.place[self.ids]
            self.follows = self.alone & (self.place >= 0)
            for number in np.flatnonzero(self.alone & (self.place < 0)):
                word = self.texts[number]
                for i in range(1, len(word) + 1):
                    self.uncut.setdefault(word[:i], set()).add(word[i:])

    def context(self, begin: str, spelt: list[int]) -> Context:
        """What decides which tokens may follow ``begin``: if possible its last token alone."""
        if self.rule is None or self.rule.place[spelt[-1]] < 0:
            return Context(None, begin)
        return Context(spelt[-1], begin if begin in self.uncut else "")

    def starting_with(self, text: str) -> tuple[int, int]:
        """Where the texts stand that begin with ``text`` and are longer."""
        begin = bisect_left(self.texts, text)
        end = bisect_left(self.texts, text + _LAST, begin)
        return begin + (begin < end and self.texts[begin] == text), end

    def allowed(self, context: Context, candidates: np.ndarray) -> np.ndarray:
        """Which candidates may follow, bool ``[N]``."""
        if context == START:
            return self.alone[candidates]
        if context.last is None:
            return self._spells(context.begin, candidates)
        forbidden = self.rule.forbidden(context.last).contain(self.place[candidates])
        allowed = self.follows[candidates] & ~forbidden
        if context.begin:
            uncut = self.uncut[context.begin]
            allowed &= np.array([self.texts[c] not in uncut for c in candidates], bool)
        return allowed

    def _spells(self, begin: str, candidates: np.ndarray) -> np.ndarray:
        """Ask the tokenizer itself."""
        texts = [begin, *(begin + self.texts[c] for c in candidates.tolist())]
        first, *whole = self.tok.tokenize_bytes_batch(texts)
        pairs = zip(whole, self.ids[candidates].tolist(), strict=True)
        return np.array([ids == [*first, i] for ids, i in pairs], bool)


def _is_utf8(token: str) -> bool:
    try:
        literal_bytes(token).decode()
    except UnicodeDecodeError:
        return False
    return True


def _find_groups(
    vocabulary: _Vocabulary, tokens: list[str]
) -> tuple[dict[Context, dict[str, int]], list[list[int]]]:
    """Groups by context and beginning of the last token, and the numbers of each token's groups."""
    begins = list({token[:i] for token in tokens for i in range(1, len(token))})
    spelt = vocabulary.tok.tokenize_bytes_batch(begins)
    # Beginnings that are not valid UTF-8 are spelt []; no tokenization ends there.
    contexts = {"": START} | {
        begin: vocabulary.context(begin, ids)
        for begin, ids in zip(begins, spelt, strict=True)
        if ids
    }
    found: dict[Context, dict[str, int]] = {}
    count = 0
    owned: list[list[int]] = []
    for token in tokens:
        owned.append([])
        for i in range(len(token)):
            if token[:i] not in contexts:
                continue
            of_context = found.setdefault(contexts[token[:i]], {})
            number = of_context.setdefault(token[i:], count)
            count += number == count
            owned[-1].append(number)
    return found, owned


def cover_sets(
    tok: ByteifiedTokenizer,
    tokens: Iterable[str],
    extensions: Extensions,
    progress: bool = False,
) -> CoverSets:
    """Compute the cover sets of tokens.

    Args:
        tokens: byteified tokens of ``tok``; of others the set is empty.
        extensions: the numbers to use; new extensions are added.
        progress: show a progress bar.
    """
    tokens = [token for token in tokens if is_byteified(token)]
    vocabulary = _Vocabulary(tok)
    found, owned = _find_groups(vocabulary, tokens)
    order, sizes, numbers, last = _find_members(vocabulary, found, extensions, progress)
    # Groups stand context by context; rank[group] is the place of each.
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    ids = np.array([tok.ids[token] for token in tokens], np.int64)
    per_token = np.zeros(len(tok), np.int64)
    per_token[ids] = [len(groups) for groups in owned]
    groups = np.array([group for at in np.argsort(ids) for group in owned[at]], np.int64)
    return CoverSets(_bounds(per_token), rank[groups], _bounds(sizes), numbers, last)


def _find_members(
    vocabulary: _Vocabulary,
    found: dict[Context, dict[str, int]],
    extensions: Extensions,
    progress: bool,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Groups in the order of contexts ``[G]``, their sizes, and members as in CoverSets."""
    offsets, table = extensions.table(vocabulary.texts)
    parts = [[np.zeros(0, dtype)] for dtype in (np.int64, np.int64, np.int32, np.int32)]
    for context, groups in tqdm(
        found.items(), desc="cover sets", unit="context", disable=not progress, mininterval=1
    ):
        begin, end = np.array([vocabulary.starting_with(text) for text in groups], np.int64).T
        candidates = joined_ranges(begin, end)
        group = np.repeat(np.arange(len(groups)), end - begin)
        skipped = np.repeat([len(text) for text in groups], end - begin)
        allowed = vocabulary.allowed(context, candidates)
        candidates = candidates[allowed]
        of_context = (
            np.fromiter(groups.values(), np.int64),
            np.bincount(group[allowed], minlength=len(groups)),
            table[offsets[candidates] + skipped[allowed]],
            vocabulary.ids[candidates].astype(np.int32),
        )
        for part, values in zip(parts, of_context, strict=True):
            part.append(values)
    order, sizes, numbers, last = map(np.concatenate, parts)
    return order, sizes, numbers, last


def _bounds(sizes: np.ndarray) -> np.ndarray:
    return np.append(0, np.cumsum(sizes))
