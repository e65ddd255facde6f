"""The longest of many words that ends at each place of a sequence of symbols.

The words, read backwards, form a trie. All places walk it together, one symbol to the left at a
time, until it has no further node; so nothing is carried from place to place, and the newest place
of a growing sequence is found from its last symbols alone. Nodes lie in a hash table with open
addressing: a step is one multiplication and, nearly always, one look-up.

This file needs numpy only: exported models bring a copy of it.
"""

from __future__ import annotations

import numpy as np

MULTIPLIER, SHIFT = 2654435761, 7  # Fibonacci hashing
# Places that walk together; few enough for the processor's caches.
BLOCK = 1 << 17


class SuffixTrie:
    """A trie of words read backwards.

    A node's number is its last symbol, if it spells one symbol, else ``symbols`` + its slot.

    Attributes:
        symbols: number of symbols; the last one is in no word, so that no match crosses it.
        keys: int64 ``[S]``, S a power of 2: ``parent * symbols + symbol`` of each slot's node; -1
            where a slot is free.
        values: int32 ``[symbols + S]``, of the longest word that ends what a node spells.
    """

    def __init__(self, keys: np.ndarray, values: np.ndarray) -> None:
        self.symbols = len(values) - len(keys)
        self.keys, self.values = keys, values

    @classmethod
    def build(
        cls, singles: np.ndarray, words: np.ndarray, lengths: np.ndarray, values: np.ndarray
    ) -> SuffixTrie:
        """Make a trie.

        Args:
            singles: ``[symbols]``, the value of each symbol by itself.
            words: ``[n]``, distinct words of two symbols or more, joined.
            lengths: ``[W]``, of each word.
            values: ``[W]``, of each word.
        """
        ends, symbols = lengths.cumsum(), len(singles)
        # Nodes are at most as many as symbols of words; half of the slots or more stay free.
        size = 1 << max(1, 2 * _distinct_ends(words, ends, lengths, symbols)).bit_length()
        trie = cls(np.full(size, -1, np.int64), np.zeros(symbols + size, np.int32))
        trie.values[:symbols] = singles
        node = words[ends - 1].astype(np.int64)
        depth = 2
        while len(deep := np.flatnonzero(lengths >= depth)):
            ends, lengths, values, node = ends[deep], lengths[deep], values[deep], node[deep]
            keys, first, place = np.unique(
                node * symbols + words[ends - depth], return_index=True, return_inverse=True
            )
            made = trie._insert(keys)
            trie.values[made] = trie.values[node[first]]
            node = made[place]
            whole = lengths == depth
            trie.values[node[whole]] = values[whole]
            depth += 1
        return trie

    def _insert(self, keys: np.ndarray) -> np.ndarray:
        """New nodes' numbers ``[K]`` of distinct keys."""
        slots = self._slots(keys)
        waiting = np.arange(len(keys))
        while len(waiting):
            free = waiting[self.keys[slots[waiting]] < 0]
            _, first = np.unique(slots[free], return_index=True)
            self.keys[slots[free[first]]] = keys[free[first]]
            waiting = waiting[self.keys[slots[waiting]] != keys[waiting]]
            slots[waiting] = (slots[waiting] + 1) & (len(self.keys) - 1)
        return slots + self.symbols

    def _slots(self, keys: np.ndarray) -> np.ndarray:
        """Where the search for each key begins."""
        return ((keys * MULTIPLIER) >> SHIFT) & (len(self.keys) - 1)

    def longest(self, ids: np.ndarray, begins: np.ndarray, last: int | None = None) -> np.ndarray:
        """Values of the longest words that end at each place.

        Args:
            ids: integers ``[B, T]`` below ``symbols``.
            begins: bool ``[B, T]``, places that nothing comes before; a row's first is one.
            last: only of the last so many places of each row; default all.

        Returns:
            int32 ``[B, T]``, or ``[B, last]``.
        """
        begins = begins.copy()
        begins[:, :1] = True
        # One symbol that is in no word before each beginning.
        places = (np.arange(ids.size) + begins.ravel().cumsum()).reshape(ids.shape)
        joined = np.full(ids.size + int(begins.sum()), self.symbols - 1, np.int64)
        joined[places] = ids
        places = places if last is None else places[:, ids.shape[1] - last :]
        wanted, found = places.ravel(), np.empty(places.size, np.int32)
        for begin in range(0, len(wanted), BLOCK):
            block = slice(begin, begin + BLOCK)
            found[block] = self._walk(joined, wanted[block])
        return found.reshape(places.shape)

    def _walk(self, joined: np.ndarray, places: np.ndarray) -> np.ndarray:
        node = joined[places]
        reached, active = node.copy(), np.arange(len(places))
        while len(active):
            places = places - 1
            found, node = self._children(node * self.symbols + joined[places])
            places, active = places[found], active[found]
            reached[active] = node
        return self.values[reached]

    def _children(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which of the keys ``[K]`` have a node, as indices, and their nodes."""
        slots = self._slots(keys)
        there = self.keys[slots]
        open_ = np.flatnonzero((there != keys) & (there >= 0))
        while len(open_):  # another key has the slot: the next one may have this
            slots[open_] = (slots[open_] + 1) & (len(self.keys) - 1)
            there[open_] = self.keys[slots[open_]]
            open_ = open_[(there[open_] != keys[open_]) & (there[open_] >= 0)]
        found = np.flatnonzero(there == keys)
        return found, slots[found] + self.symbols


def _distinct_ends(words: np.ndarray, ends: np.ndarray, lengths: np.ndarray, symbols: int) -> int:
    """Number of different ends of two symbols or more that the words have."""
    total, depth = 0, 2
    node = words[ends - 1].astype(np.int64)
    while len(deep := np.flatnonzero(lengths >= depth)):
        ends, lengths, node = ends[deep], lengths[deep], node[deep]
        keys, node = np.unique(node * symbols + words[ends - depth], return_inverse=True)
        total, depth = total + len(keys), depth + 1
    return total
