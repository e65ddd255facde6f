"""One alphabet for bytes: GPT-2's, in which every byte is one printable character.

A token of any tokenizer is shown in it ("byteified"), so that vocabularies can be compared,
concatenated and aligned exactly: ``" é"`` is ``"ĠÃ©"`` whether the tokenizer is byte-level BPE
or SentencePiece. See ``bytes_to_unicode`` in the GPT-2 release (Radford et al., 2019).
"""

from __future__ import annotations


def _byte_characters() -> list[str]:
    """Character of every byte 0..255: printable Latin-1 as itself, the rest from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    characters = []
    following = 0x100
    for byte in range(256):
        if byte in printable:
            characters.append(chr(byte))
        else:
            characters.append(chr(following))
            following += 1
    return characters


BYTE_CHARACTERS = _byte_characters()
CHARACTER_BYTES = {character: byte for byte, character in enumerate(BYTE_CHARACTERS)}
SPACE, TAB, NEWLINE = (BYTE_CHARACTERS[ord(c)] for c in " \t\n")

# str.translate tables: Latin-1 text <-> byte alphabet
_TO_ALPHABET = dict(enumerate(BYTE_CHARACTERS))
_FROM_ALPHABET = {ord(character): byte for byte, character in enumerate(BYTE_CHARACTERS)}


def to_alphabet(raw: bytes) -> str:
    """Bytes as a string of the byte alphabet, one character a byte."""
    return raw.decode("latin-1").translate(_TO_ALPHABET)


def from_alphabet(token: str) -> bytes:
    """Inverse of :func:`to_alphabet`.

    Raises:
        ValueError: if ``token`` has a character that stands for no byte.
    """
    try:
        return bytes([CHARACTER_BYTES[character] for character in token])
    except KeyError as error:
        raise ValueError(f"{token!r} is not written in the byte alphabet") from error


def literal_bytes(token: str) -> bytes:
    """Bytes of a byteified token; a token not written in the alphabet is taken as UTF-8 text.

    The latter are special tokens, which are kept verbatim ("<｜User｜>").
    """
    try:
        return token.translate(_FROM_ALPHABET).encode("latin-1")
    except UnicodeEncodeError:
        return token.encode()
