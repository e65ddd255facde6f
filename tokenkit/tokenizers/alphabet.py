"""One alphabet for all tokenizers: GPT-2's, in which each of 256 characters stands for a byte."""

from __future__ import annotations

import json
import re

BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def _gpt2_alphabet() -> list[str]:
    """Character of each byte: printable ones stand for themselves, the rest from U+0100 on."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


BYTE_TO_CHAR = _gpt2_alphabet()
CHAR_TO_BYTE = {char: byte for byte, char in enumerate(BYTE_TO_CHAR)}
SPACE, TAB, NEWLINE = (BYTE_TO_CHAR[ord(c)] for c in " \t\n")


def to_alphabet(data: bytes) -> str:
    """Bytes as a byteified string."""
    return "".join([BYTE_TO_CHAR[byte] for byte in data])


def from_alphabet(text: str) -> bytes:
    """The bytes a byteified string stands for; characters outside the alphabet as UTF-8."""
    try:
        return bytes([CHAR_TO_BYTE[char] for char in text])
    except KeyError:
        parts = [
            bytes([CHAR_TO_BYTE[char]]) if char in CHAR_TO_BYTE else char.encode("utf-8")
            for char in text
        ]
        return b"".join(parts)


def byteify_sentencepiece(piece: str) -> str:
    """A SentencePiece piece: "▁" is a space, ``<0xNN>`` one byte, the rest UTF-8 text."""
    match = BYTE_PIECE.fullmatch(piece)
    if match:
        return BYTE_TO_CHAR[int(match[1], 16)]
    return to_alphabet(piece.replace("▁", " ").encode("utf-8"))


def uses_byte_alphabet(backend_json: str) -> bool | None:
    """Whether a tokenizer.json writes tokens in the byte alphabet (True) or as text (False).

    None if tokens cannot be inverted to bytes (WordPiece, lower-casing and the like).
    """
    data = json.loads(backend_json)
    parts = json.dumps([data.get("pre_tokenizer"), data.get("decoder")])
    if '"ByteLevel"' in parts:
        return True
    if data["model"]["type"] not in ("BPE", "Unigram"):
        return None
    normalizer = json.dumps(data.get("normalizer"))
    marks_spaces = "▁" in json.dumps([normalizer, parts], ensure_ascii=False) or (
        '"Metaspace"' in parts or "\\u2581" in normalizer
    )
    return False if marks_spaces or data["model"].get("byte_fallback") else None
