"""Generation configs in another tokenizer's ids."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.tokenizers.specs import tokenizer
from tokenkit.export.generation import translated_generation
from tokenkit.tokenizers.translation import IdTranslation


@dataclass
class Source:
    """What is read of a source model."""

    folder: Path | None
    hf_config: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(eos_token_id=None))


@pytest.fixture(scope="module")
def toks():
    """Llama 3 to Qwen 2: other names of the same roles, and no BOS."""
    return tokenizer("bpe_a:source=Llama3"), tokenizer("bpe_b:source=Qwen2")


def source_of(folder: Path, **values) -> Source:
    (folder / "generation_config.json").write_text(json.dumps(values))
    return Source(folder)


def test_ids_are_translated_by_name_else_by_role(toks) -> None:
    llama, qwen = toks
    translate = IdTranslation(llama, qwen)
    assert translate(llama.ids["\u0120the"]) == qwen.ids["\u0120the"]
    assert translate(llama.ids["<|eot_id|>"]) == qwen.ids["<|im_end|>"]
    assert translate(llama.ids["<|start_header_id|>"]) == qwen.ids["<|im_start|>"]
    lone = next(i for i, t in enumerate(llama.tokens) if t and t not in qwen.ids and i < 1500)
    assert translate(lone) is translate(10**6) is translate(-1) is None
    same = IdTranslation(llama, llama)
    # An id of a byte-level vocabulary is the only one of its name.
    assert [same(i) for i in range(len(llama))] == list(range(len(llama)))


def test_lists_lose_what_has_no_counterpart_and_what_is_twice(toks) -> None:
    llama, qwen = toks
    translate = IdTranslation(llama, qwen)
    ids = [llama.ids[t] for t in ("<|eot_id|>", "\u0120the", "<|eot_id|>")] + [10**6]
    assert translate.of(ids) == [qwen.ids["<|im_end|>"], qwen.ids["\u0120the"]]
    assert translate.of([10**6]) == [] and translate.of(None) is None
    assert translate.of(ids[0]) == qwen.ids["<|im_end|>"]


def test_a_generation_config_in_the_targets_ids(toks, tmp_path) -> None:
    llama, qwen = toks
    the = llama.ids["\u0120the"]
    source = source_of(
        tmp_path,
        temperature=0.6,
        do_sample=True,
        transformers_version="4.0",
        bos_token_id=llama.bos_id,
        pad_token_id=llama.pad_id,
        eos_token_id=[llama.ids["<|eot_id|>"], the],
        suppress_tokens=[the, 10**6],
        begin_suppress_tokens=None,
        bad_words_ids=[[the, llama.ids["<|eot_id|>"]], [the]],
        forced_eos_token_id=llama.ids["<|eot_id|>"],
    )
    found = translated_generation(source, llama, qwen)
    ours, end = qwen.ids["\u0120the"], qwen.ids["<|im_end|>"]
    assert (found.temperature, found.do_sample) == (0.6, True)
    assert found.eos_token_id == [end, ours, qwen.eos_id]
    assert (found.pad_token_id, found.bos_token_id) == (qwen.pad_id, qwen.bos_id)
    assert found.suppress_tokens == [ours] and found.begin_suppress_tokens is None
    assert found.bad_words_ids == [[ours, end], [ours]]
    assert found.forced_eos_token_id == end


def test_one_end_of_the_source_is_a_list_with_the_targets(toks, tmp_path) -> None:
    llama, qwen = toks
    source = source_of(tmp_path, eos_token_id=llama.ids["\u0120the"])
    ends = [qwen.ids["\u0120the"], qwen.eos_id, qwen.ids["<|im_end|>"]]
    assert translated_generation(source, llama, qwen).eos_token_id == ends


@pytest.mark.parametrize("folder", [True, False])
def test_without_a_file_generation_ends_where_the_model_says(toks, tmp_path, folder) -> None:
    llama, qwen = toks
    config = SimpleNamespace(eos_token_id=llama.ids["\u0120the"])
    source = Source(tmp_path if folder else None, config)
    found = translated_generation(source, llama, qwen)
    assert found.eos_token_id == [qwen.ids["\u0120the"], qwen.eos_id, qwen.ids["<|im_end|>"]]
    silent = translated_generation(Source(None), llama, qwen)
    assert silent.eos_token_id == [qwen.eos_id, qwen.ids["<|im_end|>"]]
    assert silent.temperature in (None, 1.0)
