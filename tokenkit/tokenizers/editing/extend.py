"""Add tokens to a tokenizer: strings that are cut out of the text before the model sees it."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import AddedToken, Regex, Tokenizer, normalizers
from transformers import PreTrainedTokenizerFast

from tokenkit.errors import TokenizerError
from tokenkit.tokenizers.alphabet import to_alphabet
from tokenkit.tokenizers.byteify import DOUBLED_LEADING_SPACE, ByteKind
from tokenkit.tokenizers.editing.rebuild import rebuild, state_of
from tokenkit.tokenizers.tokenizer import ByteifiedTokenizer

# After a space was put in front of the text, take it away where there was one already.
PREFIX_SPACE_ONCE = (Regex(DOUBLED_LEADING_SPACE), " ")


def extend(tok: ByteifiedTokenizer, tokens: Sequence[str]) -> ByteifiedTokenizer:
    """The tokenizer with further tokens, which are no special ones.

    Args:
        tokens: as they stand in text. They get the ids that follow, in this order; one that the
            vocabulary has keeps its id, but is cut out of the text from now on.

    Raises:
        TokenizerError: if a token is empty, or a vocabulary entry of its name is other bytes.
    """
    if not all(tokens):
        raise TokenizerError(f"an empty token cannot be added to tokenizer '{tok.spec}'")
    extended = rebuild(tok, state_of(tok))
    check_additions(extended.hf, tokens, tok.kind, str(tok.spec))
    add_tokens(extended.hf, tokens, special=False)
    return rebuild(tok, state_of(extended))


def add_tokens(hf: PreTrainedTokenizerFast, tokens: Sequence[str], *, special: bool) -> None:
    """Add tokens in place; those that exist keep their ids, those added before all they are."""
    known = {token.content for token in hf.added_tokens_decoder.values()}
    new = [token for token in dict.fromkeys(tokens) if token not in known]
    added = [AddedToken(token, special=special, normalized=False) for token in new]
    if added:
        hf.add_tokens(added, special_tokens=special)


def check_additions(
    hf: PreTrainedTokenizerFast, tokens: Sequence[str], kind: ByteKind, spec: str
) -> None:
    """Refuse a token whose text is, as a vocabulary entry, another one's bytes ("é", "Ġ").

    Raises:
        TokenizerError: naming the token.
    """
    vocabulary = hf.get_vocab()
    for token in tokens:
        if kind == "byte_level" and token in vocabulary and to_alphabet(token.encode()) != token:
            raise TokenizerError(
                f"token '{token}' cannot be added to tokenizer '{spec}', whose vocabulary has an "
                "entry of that name for other bytes"
            )


def put_space_before_pieces(backend: Tokenizer) -> None:
    """Let a tokenizer put a space before each piece of text that does not begin with one."""
    steps = [normalizers.Prepend(" "), normalizers.Replace(*PREFIX_SPACE_ONCE)]
    if backend.normalizer is not None:
        steps.append(backend.normalizer)
    backend.normalizer = normalizers.Sequence(steps)
