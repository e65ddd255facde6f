"""Exported byte-level models against the student in training, and against themselves."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

from tests.export.byte_models import Exported, export_tiny
from tests.models.tiny import FAMILIES
from tokenkit.batch import Sequences
from tokenkit.config import config_from_dict
from tokenkit.errors import ModelError
from tokenkit.evaluation.bits_per_byte import bits_per_byte
from tokenkit.export.zero_shot import transfer_model
from tokenkit.models.causal_lm import load_causal_lm
from tokenkit.tokenizers import load_tokenizer
from tokenkit.training.student import build_student, open_student_source
from tokenkit.training.tokenizers import load_tokenizers

TEXTS = [
    "def return_items(self):\n                                    return self.items  # é日",
    "import numpy as np\n\n\nx = np.zeros(3)",
    "the number of items is",
]


def load(exported: Exported):
    return AutoModelForCausalLM.from_pretrained(exported.folder, trust_remote_code=True).eval()


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> Exported:
    return export_tiny(tmp_path_factory.mktemp("llama"), "llama")


@pytest.fixture(scope="module")
def model(llama):
    return load(llama)


def random_prompts(rows: int, length: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    # Bytes that make up many tokens: spaces, letters, newlines.
    likely = torch.tensor(list(b"     \n\nthe return self.items import numpy for in"))
    return likely[torch.randint(len(likely), (rows, length), generator=generator)]


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_logits_are_those_of_training(family, tmp_path):
    exported = export_tiny(tmp_path, family, tie_word_embeddings=family in ("llama", "gemma2"))
    plain = load(exported)
    for text in TEXTS:
        ids = torch.from_numpy(exported.tok.encode(text)).long()[None]
        embeddings = exported.student.vocabulary.embed(Sequences.of(ids))
        hidden = exported.student.run_backbone(embeddings)
        ours = exported.student.vocabulary.logits(hidden)
        torch.testing.assert_close(plain(ids).logits, ours, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_a_subword_counts(llama, model):
    """Without its table, the model says something else."""
    ids = torch.from_numpy(llama.tok.encode(TEXTS[0])).long()[None]
    known = model(ids).logits
    saved = model.subwords.weight.clone()
    model.subwords.weight.zero_()
    assert (model(ids).logits - known).abs().max() > 0.1
    model.subwords.weight.copy_(saved)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
@torch.no_grad()
def test_with_cache_as_without(family, tmp_path, model):
    plain = model if family == "llama" else load(export_tiny(tmp_path, family))
    prompts, eos = random_prompts(50, 40), plain.generation_config.eos_token_id
    options = {"max_new_tokens": 200, "min_new_tokens": 200, "do_sample": False}
    streams = plain.generate(prompts, **options)
    # One pass without cache over what was generated: its choice after each place is the next token.
    logits = plain(streams, use_cache=False).logits
    logits[..., eos] = -torch.inf
    assert logits[:, 39:-1].argmax(-1).tolist() == streams[:, 40:].tolist()
    assert len(set(map(tuple, streams[:, 40:].tolist()))) > 25  # streams differ


@torch.no_grad()
def test_a_loop_of_ones_own_may_give_new_ids_alone(model):
    ids = random_prompts(4, 120)
    whole = model(ids).logits
    cache, found = DynamicCache(config=model.config), []
    for part in (ids[:, :40], *ids[:, 40:80].split(1, 1), ids[:, 80:]):
        found.append(model(part, past_key_values=cache).logits)
    torch.testing.assert_close(torch.cat(found, 1), whole, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="give subword_ids = model.expand"):
        cache.crop(-60)
        model(ids[:, 60:61], past_key_values=cache)
    subwords = model.expand(ids[:, :61], last=1)
    again = model(ids[:, 60:61], past_key_values=cache, subword_ids=subwords).logits
    torch.testing.assert_close(again, whole[:, 60:61], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [{"do_sample": False}, {"num_beams": 3}], ids=str)
def test_batched_as_single(llama, model, options):
    tok = AutoTokenizer.from_pretrained(llama.folder, padding_side="left", trust_remote_code=True)
    options = {**options, "max_new_tokens": 24, "min_new_tokens": 24}
    batch = tok(TEXTS, return_tensors="pt", padding=True)
    assert not batch.attention_mask.all()
    together = model.generate(**batch, **options)[:, batch.input_ids.shape[1] :]
    for text, found in zip(TEXTS, together, strict=True):
        alone = tok(text, return_tensors="pt")
        whole = model.generate(**alone, **options)[0, alone.input_ids.shape[1] :]
        assert found.tolist() == whole.tolist()


def test_beams_and_samples_need_no_cache(model):
    prompts = random_prompts(2, 30)
    for options in ({"num_beams": 4}, {"do_sample": True, "temperature": 0.8}):
        runs = []
        for use_cache in (True, False):
            torch.manual_seed(5)
            runs.append(model.generate(prompts, max_new_tokens=40, use_cache=use_cache, **options))
        assert runs[0].tolist() == runs[1].tolist()


def test_bits_per_byte_are_those_of_training(llama):
    options = {"max_bytes": 64, "batch_size": 2, "device": torch.device("cpu")}
    before = bits_per_byte(llama.student, llama.tok, TEXTS, **options)
    tok = load_tokenizer(str(llama.folder))
    made = load_causal_lm(str(llama.folder), torch.device("cpu"), torch.float32, len(tok))
    assert bits_per_byte(made, tok, TEXTS, **options) == pytest.approx(before, rel=1e-6)


def test_its_tokenizer_stays(llama, tmp_path):
    toks = llama.tok, load_tokenizer(f"{Path(llama.tok.spec.path)}:source=Llama3")
    with pytest.raises(ModelError, match="reads subwords beside bytes, so it keeps its tokenizer"):
        transfer_model(str(llama.folder), *toks, tmp_path / "moved")


@torch.no_grad()
def test_it_can_be_trained_further(llama, model):
    settings = {"model": str(llama.folder), "tokenizer": str(llama.folder), "train": "full"}
    config = config_from_dict({"student": settings})
    tokenizers = load_tokenizers(config, needs_teacher=False)
    source = open_student_source(config, tokenizers)
    student = build_student(config, source, tokenizers, parallel=None)
    ids = random_prompts(2, 50)
    hidden = student(Sequences.of(ids), ("hidden",)).hidden
    ours = student.vocabulary.logits(hidden)
    torch.testing.assert_close(model(ids).logits, ours, rtol=1e-5, atol=1e-5)
    assert student.vocabulary.expansion is not None  # so its folder is again one of this kind
    other = replace(tokenizers, student=llama.tok)
    with pytest.raises(ModelError, match="leave student.target_tokenizer empty"):
        build_student(config, source, other, parallel=None)


ALONE = """
import sys
class Blocked:
    def find_spec(self, name, *_):
        if name.split(".")[0] == "tokenkit":
            raise ImportError("tokenkit is not installed here")
sys.meta_path.insert(0, Blocked())
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, trust = sys.argv[1], sys.argv[2] == "trust"
tok = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust)
model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=trust)
inputs = tok("def return_items(self):\\n    ", return_tensors="pt")
found = model.generate(**inputs, max_new_tokens=40, do_sample=False)
assert not any(name.split(".")[0] == "tokenkit" for name in sys.modules)
print(found[0].tolist())
"""


def run_alone(folder: Path, tmp_path: Path, trust: str) -> subprocess.CompletedProcess:
    (tmp_path / "alone.py").write_text(ALONE)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment |= {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, "alone.py", folder, trust], cwd=tmp_path, env=environment,
        capture_output=True, text=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def test_needs_nothing_of_tokenkit(llama, model, tmp_path):
    done = run_alone(llama.folder, tmp_path, "trust")
    assert done.returncode == 0, done.stderr[-3000:]
    tok = AutoTokenizer.from_pretrained(llama.folder, trust_remote_code=True)
    inputs = tok("def return_items(self):\n    ", return_tensors="pt")
    here = model.generate(**inputs, max_new_tokens=40, do_sample=False)
    assert done.stdout.strip() == str(here[0].tolist())


def test_is_not_read_as_a_plain_model_without_trust(llama, tmp_path):
    done = run_alone(llama.folder, tmp_path, "distrust")
    assert done.returncode != 0 and "trust_remote_code=True" in done.stderr
