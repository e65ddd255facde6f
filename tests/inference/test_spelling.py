"""Text of tokens that arrive one by one: whole characters, and cuts that no token decides."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tokenizers.specs import tokenizer
from tokenkit.inference.spelling import Spelling, TextPieces

TEXT = st.text(alphabet="ab é日🦊\n", max_size=12)


def spelt(*raw: bytes) -> tuple[SimpleNamespace, range]:
    """A spelling in which token i is the i-th of some bytes."""
    fields = {"raw": list(raw), "hidden": set(), "apart": set(), "drops_space": False}
    return SimpleNamespace(**fields), range(len(raw))


def cut(data: bytes, places: list[int]) -> list[bytes]:
    places = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[a:b] for a, b in zip(places, places[1:], strict=False)]


def written(raw: list[bytes], stops: list[str]) -> tuple[str, list[str], bool]:
    spelling, ids = spelt(*raw)
    pieces = TextPieces(spelling, stops)
    given_out = [pieces.put(token) for token in ids] + [pieces.finish()]
    return pieces.text, given_out, pieces.stopped


def expected(text: str, stops: list[str]) -> str:
    """The text before the stop string that a reader of one byte after another meets first."""
    data = text.encode()
    for end in range(len(data) + 1):
        met = [stop.encode() for stop in stops if data[:end].endswith(stop.encode())]
        if met:
            return data[: end - max(map(len, met))].decode()
    return text


@given(TEXT, st.lists(st.integers(0, 40)), st.lists(TEXT.filter(bool), max_size=3))
def test_tokens_do_not_decide_where_a_text_ends(text, places, stops):
    found, given_out, stopped = written(cut(text.encode(), places), stops)
    assert found == expected(text, stops) == "".join(given_out)
    assert stopped == any(stop in text for stop in stops)
    assert "\ufffd" not in found


@given(st.binary(max_size=12), st.lists(st.integers(0, 40)))
def test_bytes_that_are_no_text_are_replaced_once_and_for_all(data, places):
    found, given_out, _ = written(cut(data, places), [])
    assert found == "".join(given_out)
    whole = data.decode("utf-8", errors="replace")
    # Only an unfinished character at the end is missing.
    assert whole in (found, found + "\ufffd")


def test_a_character_is_given_out_when_its_last_byte_is_there():
    fox = "🦊".encode()
    _, given_out, _ = written([b"a", fox[:1], fox[1:3], fox[3:] + b"b"], [])
    assert given_out == ["a", "", "", "🦊b", ""]
    assert written([b"a", fox[:3]], [])[0] == "a"


def test_what_may_be_a_stop_string_is_kept_back():
    text, given_out, stopped = written([b"a E", b"N", b"X", b" EN", b"D more"], ["END"])
    assert given_out == ["a ", "", "ENX", " ", "", ""]
    assert (text, stopped) == ("a ENX ", True)
    # In the middle of a token, and of a character's bytes.
    fox = "🦊!".encode()
    assert written([b"x" + fox[:2], fox[2:] + b"y"], ["🦊!"])[0] == "x"


@pytest.mark.parametrize("spec", ["bpe_a:source=Llama3", "spm:source=TinyLlama"])
@given(text=st.text(alphabet="ab c\n日🦊", max_size=20))
def test_text_is_that_of_the_tokenizer(spec, text):
    tok = tokenizer(spec)
    spelling = Spelling(tok)
    ids = tok.encode_text(text)
    assert spelling.text(ids) == tok.decode(ids)
    # Special tokens are not shown, and a piece of text begins after one.
    assert spelling.text([tok.eos_id, *ids, tok.eos_id]) == tok.decode(ids)
    assert spelling.text([len(tok) + 5, *ids]) == tok.decode(ids)
