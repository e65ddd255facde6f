"""Alignment of one row token by token: slow, independent of the vectorised one, easy to read."""

from __future__ import annotations

from dataclasses import dataclass, field

from tokenkit.tokenizers import ByteifiedTokenizer
from tokenkit.tokenizers.families import BOS, END_HEADER, MARKERS, ROLE_MARKERS, START_HEADER


@dataclass
class Unit:
    """A token, or the tokens that stand for a marker."""

    tokens: list[int]  # positions
    kind: str = "text"  # text | marker | dropped


@dataclass
class Row:
    tok: ByteifiedTokenizer
    strings: list[str]
    raw: list[bytes]
    units: list[Unit] = field(default_factory=list)

    @property
    def soft(self) -> set[str]:
        """Words that are one token and stand for a marker."""
        found = {t[0] for t in self.tok.family.replacements.values() if t and len(t) == 1}
        return found - set(self.tok.family.special_tokens)


def make_row(tok: ByteifiedTokenizer, other: ByteifiedTokenizer, ids: list[int]) -> Row:
    row = Row(tok, [tok.tokens[i] for i in ids], [tok.token_bytes[i] for i in ids])
    special = set(tok.family.special_tokens)
    role: str | None = None  # the part of a header that has just been read
    i = 0
    while i < len(ids):
        best: tuple[int, list[str]] = (0, [])
        for marker in MARKERS:
            tokens = tok.family.replacements[marker]
            if not tokens or tuple(row.strings[i : i + len(tokens)]) != tokens:
                continue
            in_header = (role == "start" and marker in ROLE_MARKERS.values()) or (
                role == "name" and marker == END_HEADER
            )
            if tokens[0] not in special and not in_header:
                continue
            if len(tokens) > best[0]:
                best = (len(tokens), [])
            if len(tokens) == best[0]:
                best[1].append(marker)
        length, markers = best
        if not length and row.strings[i] in special:
            for marker in MARKERS:  # a marker's first token alone, at the end of a cut row
                tokens = tok.family.replacements[marker]
                if tokens and tokens[0] == row.strings[i]:
                    length, markers = 1, [marker]
        if not length:
            row.units.append(Unit([i]))
            role, i = None, i + 1
            continue
        dropped = other.family.replacements[markers[-1]] is None
        row.units.append(Unit(list(range(i, i + length)), "dropped" if dropped else "marker"))
        role = (
            "start"
            if START_HEADER in markers
            else "name"
            if set(markers) & set(ROLE_MARKERS.values())
            else None
        )
        if i == 0 and BOS in markers:
            row.units[0].kind = row.units[0].kind + " bos"
        i += length
    return row


def drop_lonely_bos(a: Row, b: Row) -> None:
    has = [bool(r.units) and r.units[0].kind.endswith(" bos") for r in (a, b)]
    for row, mine, theirs in ((a, *has), (b, *has[::-1])):
        if mine:
            row.units[0].kind = row.units[0].kind.removesuffix(" bos") if theirs else "dropped"


def leading_spaces(row: Row, unit: int) -> int:
    count = 0
    while unit < len(row.units) and row.units[unit].kind == "text":
        raw = row.raw[row.units[unit].tokens[0]]
        stripped = raw.lstrip(b" ")
        count += len(raw) - len(stripped)
        if stripped:
            break
        unit += 1
    return count


def walk(
    teacher: ByteifiedTokenizer, student: ByteifiedTokenizer, t_ids: list[int], s_ids: list[int]
) -> tuple[list[tuple[list[int], list[int], bool]], bool]:
    """Chunks as positions on both sides and whether they are special; whether bytes differ."""
    t, s = make_row(teacher, student, t_ids), make_row(student, teacher, s_ids)
    drop_lonely_bos(t, s)
    rows, at = (t, s), [0, 0]
    chunks: list[tuple[list[int], list[int], bool]] = []
    open_tokens: list[list[int]] = [[], []]
    text = [b"", b""]
    segment_start = True

    def close(special: bool) -> None:
        chunks.append((open_tokens[0][:], open_tokens[1][:], special))
        open_tokens[:] = [[], []]
        text[:] = [b"", b""]

    while True:
        for k in (0, 1):
            while at[k] < len(rows[k].units) and rows[k].units[at[k]].kind == "dropped":
                at[k] += 1
        synchronous = not any(open_tokens)
        # Between chunks both sides go on, else the one that is behind.
        moving = (0, 1) if synchronous else (0,) if len(text[0]) < len(text[1]) else (1,)
        if any(at[k] == len(rows[k].units) for k in moving):
            return chunks, False
        units = {k: rows[k].units[at[k]] for k in moving}
        if synchronous and all(
            u.kind == "marker" or rows[k].strings[u.tokens[0]] in rows[k].soft
            for k, u in units.items()
        ):
            for k in (0, 1):
                open_tokens[k] = units[k].tokens
                at[k] += 1
            words = {rows[k].strings[u.tokens[0]] for k, u in units.items()}
            segment_start = any(u.kind == "marker" for u in units.values()) or len(words) > 1
            close(True)
            continue
        for k, unit in units.items():
            if unit.kind == "marker":
                # A special token's name in the text: read its tokens as bytes.
                rows[k].units[at[k] : at[k] + 1] = [Unit([i]) for i in unit.tokens]
        if synchronous and segment_start:
            spaces = [leading_spaces(rows[k], at[k]) for k in (0, 1)]
            for k in (0, 1):
                missing = max(0, spaces[1 - k] - spaces[k])
                first = rows[k].units[at[k]].tokens[0]
                rows[k].raw[first] = b" " * missing + rows[k].raw[first]
            segment_start = False
        for k in moving:
            i = rows[k].units[at[k]].tokens[0]
            text[k] += rows[k].raw[i]
            open_tokens[k].append(i)
            at[k] += 1
        shared = min(map(len, text))
        if text[0][:shared] != text[1][:shared]:
            return chunks, True
        if len(text[0]) == len(text[1]):
            close(False)


def chunk_ids(
    teacher: ByteifiedTokenizer,
    student: ByteifiedTokenizer,
    t_ids: list[int],
    s_ids: list[int],
    space: bool = False,
) -> tuple[list[int], list[int], bool]:
    """Chunk id per token on both sides, -1 for none; whether bytes differ."""
    chunks, differs = walk(teacher, student, t_ids, s_ids)
    result = [[-1] * len(t_ids), [-1] * len(s_ids)]
    strings = ([teacher.tokens[i] for i in t_ids], [student.tokens[i] for i in s_ids])
    number = 0
    for t, s, special in chunks:
        for k, tokens in enumerate((t, s)):
            for i in tokens:
                result[k][i] = number
        following = [tokens[-1] + 1 for tokens in (t, s)]
        before_space = all(
            i < len(strings[k]) and strings[k][i].startswith("Ġ") for k, i in enumerate(following)
        )
        number += not space or special or before_space
    return result[0], result[1], differs
