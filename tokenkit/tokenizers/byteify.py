"""How a tokenizer writes bytes, read from its ``tokenizer.json``, and its tokens as bytes.

Two ways can be inverted exactly. *Byte-level* tokenizers already use GPT-2's byte alphabet.
*SentencePiece-style* ones write a space as "▁", other text as itself, and bytes of unknown
characters as ``<0xNN>``. Everything else (WordPiece, lower-casing, Unicode normalisation in a
sequence, …) loses bytes and is refused with the reason.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from tokenkit.errors import TokenizerError
from tokenkit.tokenizers.alphabet import BYTE_CHARACTERS, to_alphabet

ByteKind = Literal["byte_level", "sentencepiece"]

UNICODE_FORMS = ("NFC", "NFD", "NFKC", "NFKD")
METASPACE = "▁"
BYTE_PIECES = {f"<0x{byte:02X}>": BYTE_CHARACTERS[byte] for byte in range(256)}

DOUBLED_LEADING_SPACE = r"\A  "
_LOSSLESS_NORMALIZERS = ("Prepend", "ByteLevel")
# Bytes that no UTF-8 text contains
_NEVER_IN_UTF8 = {0xC0, 0xC1, *range(0xF5, 0x100)}


def components(part: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    """The elementary parts of a normaliser, pre-tokeniser or decoder, sequences flattened."""
    if part is None:
        return
    if part["type"] != "Sequence":
        yield part
        return
    for key in ("normalizers", "pretokenizers", "decoders", "processors"):
        for inner in part.get(key, ()):
            yield from components(inner)


def _is_space_replacement(part: dict[str, Any]) -> bool:
    pattern = part.get("pattern", {})
    return pattern.get("String") == " " and part.get("content") == METASPACE


def lone_unicode_form(data: dict[str, Any]) -> str:
    """The name of the Unicode normaliser, beside which none but lossless ones stand, or ""."""
    forms = [p["type"] for p in components(data.get("normalizer")) if p["type"] in UNICODE_FORMS]
    return forms[0] if len(forms) == 1 else ""


def check_normalizer(data: dict[str, Any], spec: str) -> None:
    """Refuse normalisers that change bytes.

    Raises:
        TokenizerError: with the normaliser's name.
    """
    form = lone_unicode_form(data)
    for part in components(data.get("normalizer")):
        name = part["type"]
        lossless = name in _LOSSLESS_NORMALIZERS or name == form
        if name == "Replace":
            pattern, content = part["pattern"], part["content"]
            lossless = _is_space_replacement(part) or pattern == {"Regex": DOUBLED_LEADING_SPACE}
            name = f"Replace {pattern} by {content!r}"
        if not lossless:
            raise TokenizerError(
                f"tokenizer '{spec}' normalises text ({name}), so its tokens cannot be inverted "
                "to the text's bytes; choose a tokenizer without this normaliser"
            )


def detect_byte_kind(data: dict[str, Any], spec: str) -> ByteKind:
    """Decide how a tokenizer writes bytes.

    Args:
        data: the parsed ``tokenizer.json``.

    Raises:
        TokenizerError: if its tokens cannot be inverted to bytes.
    """
    model = data["model"]
    # tokenizer.json files of old may leave the type out; then only BPE has merges
    kind = model.get("type") or ("BPE" if "merges" in model else "Unigram")
    refusal = f"tokenizer '{spec}' cannot be inverted to bytes: "
    if kind not in ("BPE", "Unigram"):
        raise TokenizerError(
            f"{refusal}its model is {kind}; byte-level BPE and SentencePiece-style BPE or Unigram "
            "with byte fallback are supported"
        )
    check_normalizer(data, spec)
    parts = [
        part
        for place in ("normalizer", "pre_tokenizer", "decoder")
        for part in components(data.get(place))
    ]
    if any(part["type"] == "ByteLevel" for part in parts):
        return "byte_level"
    if not any(part["type"] == "Metaspace" or _is_space_replacement(part) for part in parts):
        raise TokenizerError(
            f"{refusal}it is neither byte-level nor SentencePiece-style (no ByteLevel, no "
            f"'{METASPACE}' for spaces)"
        )
    if not model.get("byte_fallback"):
        raise TokenizerError(
            f"{refusal}it has no byte fallback, so characters outside its vocabulary are lost"
        )
    return "sentencepiece"


def adds_prefix_space(data: dict[str, Any]) -> bool:
    """Whether the tokenizer itself puts a space before a piece of text."""
    for place in ("normalizer", "pre_tokenizer"):
        for part in components(data.get(place)):
            if part["type"] == "Prepend" or part.get("add_prefix_space"):
                return True
            if part["type"] == "Metaspace" and part.get("prepend_scheme", "always") != "never":
                return True
    return False


def byteify_token(token: str, kind: ByteKind) -> str:
    """A vocabulary entry in the byte alphabet."""
    if kind == "byte_level":
        return token
    if token in BYTE_PIECES:
        return BYTE_PIECES[token]
    return to_alphabet(token.replace(METASPACE, " ").encode())


def byteify_added_token(content: str, special: bool, kind: ByteKind) -> str:
    """An added token in the byte alphabet; special ones stay verbatim.

    Added tokens are matched in the text itself, so even a byte-level tokenizer writes them
    plainly ("\\n\\n", not "ĊĊ").
    """
    if special:
        return content
    text = content.replace(METASPACE, " ") if kind == "sentencepiece" else content
    return to_alphabet(text.encode())


def native_token(raw: bytes, kind: ByteKind) -> str | None:
    """Bytes as the tokenizer's model wants them; None if SentencePiece cannot express them."""
    if kind == "byte_level":
        return to_alphabet(raw)
    try:
        return raw.decode().replace(" ", METASPACE)
    except UnicodeDecodeError:
        return None


def missing_bytes(tokens: set[str]) -> list[int]:
    """Bytes that occur in UTF-8 text but are no token: such text cannot be encoded fully."""
    return [
        byte
        for byte, character in enumerate(BYTE_CHARACTERS)
        if character not in tokens and byte not in _NEVER_IN_UTF8
    ]
