"""Sample a tokenizer from texts, as ZeTT trains its hypernetwork on (arXiv 2405.07883, §3.2).

Pieces are the substrings with the highest score, which is count × bytes as a share of all
scores, plus Gaussian noise whose standard deviation is itself drawn from a log-normal
distribution. They make a Unigram tokenizer with the noisy shares as probabilities.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tokenkit.errors import ConfigError
from tokenkit.tokenizers.alphabet import BYTE_CHARACTERS, NEWLINE, SPACE, TAB, to_alphabet
from tokenkit.tokenizers.families import Family
from tokenkit.tokenizers.sampling.substrings import Substrings, count_substrings
from tokenkit.tokenizers.spec import TokenizerSpec
from tokenkit.tokenizers.tokenizer import ByteifiedTokenizer

BLANKS = (SPACE, NEWLINE, TAB)


@dataclass(frozen=True)
class SamplerSettings:
    """How tokenizers are drawn.

    Attributes:
        size_mean, size_std: of the normal distribution of the vocabulary's size, special tokens
            included.
        size_min, size_max: the size is clipped to these.
        max_bytes: longest piece.
        noise_mean, noise_sigma: median and spread of the log-normal distribution of the noise's
            standard deviation; a median of 0 means no noise.
    """

    size_mean: float = 32768
    size_std: float = 0.0
    size_min: int = 16384
    size_max: int = 32768
    max_bytes: int = 16
    noise_mean: float = 1e-5
    noise_sigma: float = 4.0

    def __post_init__(self) -> None:
        if not 0 < self.size_min <= self.size_max:
            raise ConfigError(
                f"tokenizer sampler: size_min = {self.size_min} and size_max = {self.size_max} "
                "must be positive and in this order"
            )
        for name in ("size_std", "noise_mean", "noise_sigma"):
            if getattr(self, name) < 0:
                raise ConfigError(
                    f"tokenizer sampler: {name} = {getattr(self, name)} must not be negative"
                )
        if self.max_bytes < 1:
            raise ConfigError(f"tokenizer sampler: max_bytes = {self.max_bytes} must be positive")


@dataclass(frozen=True)
class SampledTokenizer:
    """A tokenizer and its tokens' log-probs, fp32 ``[V]`` (0 for special tokens)."""

    tok: ByteifiedTokenizer
    log_probs: np.ndarray


def sample_tokenizer(
    pretoken_counts: Mapping[str, int],
    settings: SamplerSettings,
    like: ByteifiedTokenizer,
    rng: np.random.Generator,
) -> SampledTokenizer:
    """Draw one tokenizer.

    It depends on the counts (not their order), the settings and the state of ``rng`` alone. It
    has all bytes, so it can write any text. Texts with too few different substrings give a
    smaller vocabulary than asked for.

    Args:
        pretoken_counts: from :func:`tokenkit.tokenizers.sampling.substrings.count_pretokens`.
        like: whose family, special tokens, chats and BOS rule the tokenizer gets.

    Raises:
        ConfigError: if the size drawn leaves no room beside the pieces every tokenizer has.
    """
    size = rng.normal(settings.size_mean, settings.size_std)
    size = int(np.clip(size, settings.size_min, settings.size_max))
    noise = 0.0
    if settings.noise_mean > 0:
        noise = rng.lognormal(np.log(settings.noise_mean), settings.noise_sigma)
    special = list(dict.fromkeys([*like.family.special_tokens, *like.control_tokens]))
    fixed = _fixed_pieces(like.family, special, settings.max_bytes)
    wanted = size - len(special) - len(fixed)
    if wanted < 0:
        raise ConfigError(
            f"tokenizer sampler: a vocabulary of {size} tokens is too small; bytes, runs of "
            f"blanks and special tokens alone are {len(special) + len(fixed)}"
        )
    substrings = count_substrings(pretoken_counts, settings.max_bytes)
    chosen, log_probs, least = _draw(substrings, wanted, noise, fixed, rng)
    pieces = {piece: least if score is None else score for piece, score in fixed.items()}
    pieces |= dict(zip(chosen, log_probs, strict=True))
    tok = _unigram(pieces, special, like)
    return SampledTokenizer(tok, np.array([*pieces.values(), *[0.0] * len(special)], np.float32))


def _fixed_pieces(family: Family, special: list[str], max_bytes: int) -> dict[str, float | None]:
    """Pieces every sampled tokenizer has, with log-prob; None: that of the rarest substring.

    Runs of blanks are always one token, as in most tokenizers of code.
    """
    template = family.template_tokens() - set(special)
    pieces: dict[str, float | None] = dict.fromkeys([*BYTE_CHARACTERS, *sorted(template)])
    for repeated, length, first in product(BLANKS, range(1, max_bytes), BLANKS):
        pieces[first + repeated * length] = 0.0
    return pieces


def _draw(
    substrings: Substrings,
    wanted: int,
    noise: float,
    fixed: Mapping[str, float | None],
    rng: np.random.Generator,
) -> tuple[list[str], np.ndarray, float]:
    """Pieces by falling score, their log-probs, and the log-prob of the rarest substring."""
    score = (substrings.count * substrings.length).astype(np.float64)
    if not len(score):
        return [], score, 0.0
    share = score / score.sum()
    least = float(np.log(share.min()))
    share += rng.normal(0.0, noise, len(share))
    candidates = min(wanted + len(fixed), len(share))
    place = len(share) - max(candidates, 1)
    best = np.flatnonzero((share >= np.partition(share, place)[place]) & (share > 0))
    # Equal shares keep their order, which is that of the bytes.
    best = best[np.argsort(-share[best], kind="stable")][:candidates]
    strings = [to_alphabet(substrings.text(i)) for i in best.tolist()]
    new = [k for k, piece in enumerate(strings) if piece not in fixed][:wanted]
    return [strings[k] for k in new], np.log(share[best[new]]), least


def _unigram(
    pieces: Mapping[str, float], special: list[str], like: ByteifiedTokenizer
) -> ByteifiedTokenizer:
    backend = Tokenizer(models.Unigram(list(pieces.items())))
    # Cuts words like PRETOKEN_PATTERN before it writes them in the byte alphabet.
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    backend.decoder = decoders.ByteLevel()
    hf = PreTrainedTokenizerFast(tokenizer_object=backend)
    added = [AddedToken(token, special=True, normalized=False) for token in special]
    hf.add_tokens(added, special_tokens=True)
    return ByteifiedTokenizer(
        hf,
        TokenizerSpec("sampled", like.family.name),
        like.family,
        "byte_level",
        chat=like.chat,
        text_bos=like.text_bos,
        control_tokens=like.control_tokens,
    )
