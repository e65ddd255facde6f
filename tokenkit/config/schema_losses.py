"""The sections about what is minimised: ``[loss]`` and one for each kind of loss with settings."""

from __future__ import annotations

from dataclasses import dataclass

from tokenkit.config.key import key

ALM_DIFFERENCES = (
    *("abs", "binary_ce", "reverse_binary_kl", "binary_kl_temp_limit"),
    *("abs_exp", "renyi", "joschu_k2", "joschu_k3"),
)


@dataclass
class LossConfig:
    """What is minimised."""

    names: list[str] = key(["sft"], "losses, by registered name")
    weights: list[float] = key([], "weight of each loss (empty: all 1)", minimum=0)
    schedules: list[str] = key(
        [],
        "course of each weight over training (empty: all constant); linear and reverse_cosine rise "
        "from 0 to 1, reverse_linear and cosine fall",
        choices=("constant", "linear", "reverse_linear", "cosine", "reverse_cosine"),
    )
    aggregation: str = key(
        "",
        "how losses are balanced: (empty: mean of weighted losses) | approx_gradmag | "
        "approx_gradmag_preserve_mag | gradnorm, or a sum of their weighted gradients after "
        "gradmag, gradclip:LIMIT, pcgrad, joined by +",
    )
    gradnorm_lr: float = key(0.025, "learning rate of gradnorm's weights", above=0)
    gradnorm_alpha: float = key(0.12, "how strongly gradnorm evens out learning rates", minimum=0)


@dataclass
class AlmConfig:
    """Approximate likelihood matching, the losses alm_*."""

    diff_fn: str = key(
        "binary_ce", "difference of chunk log-probabilities", choices=ALM_DIFFERENCES
    )
    mode: str = key(
        "merge_by_space_prob+append_space",
        "joined by +: merge_by_space_prob | append_space | eos_as_space",
    )
    temperature: float = key(100.0, "divides chunk log-probabilities", above=0)
    merge_threshold: float = key(
        0.1, "teacher's boundary probability that closes a chunk", minimum=0, maximum=1
    )
    numerator: str = key(
        "chunk_count",
        "weight of a chunk",
        choices=("chunk_count", "token_count", "log1p_token_count"),
    )
    denominator: str = key(
        "chunk_count", "what the sum is divided by", choices=("chunk_count", "token_count")
    )
    renyi_alpha: float = key(2.0, "order of the Renyi divergence (diff_fn renyi)", above=0)
    space_mask_mode: str = key(
        "space+tab+newline+special",
        "tokens that begin with these are boundaries; joined by +: space | tab | newline | special",
    )
    pair_bias: str = key("", "folder or file of tokenizer pair statistics (loss alm_unbiased)")
    bias_threshold: float = key(
        0.1, "alm_unbiased drops chunks with a higher bias", minimum=0, maximum=1
    )


@dataclass
class LatentsConfig:
    """Hidden states at chunk ends, the loss alm_latents."""

    states: str = key(
        "last_hidden_state", "last_hidden_state | all_hidden_states | qkv, joined by +"
    )
    normalization: str = key(
        "l2_channelwise",
        "measure of the difference",
        choices=("l2", "l2_channelwise", "l1", "l1_channelwise"),
    )
    chunks: str = key("naive", "which chunks' ends", choices=("naive", "space"))
    project: bool = key(False, "learn a map from the student's to the teacher's hidden states")


@dataclass
class SidePathConfig:
    """Probabilities of shared tokens after aligned chunks, the loss alm_side_path."""

    diff_fn: str = key(
        "kl",
        "how probabilities are compared",
        choices=("kl", "reverse_kl", "kl_subset", "reverse_kl_subset", "log_abs", "abs"),
    )
    bias_threshold: float = key(
        1e-3, "largest bias of a pair of tokens (with alm.pair_bias; else all pairs)", minimum=0
    )


DIVERGENCES = ("kl", "rkl", "js", "skl", "srkl", "akl")


@dataclass
class KdConfig:
    """Divergences on logits: the losses kd and mined, and (but for the divergence) dskd."""

    divergence: str = key("kl", "divergence from teacher to student", choices=DIVERGENCES)
    temperature: float = key(2.0, "divides both sides' logits", above=0)
    teacher_temperature: float = key(1.0, "divides the teacher's logits once more", above=0)
    scale_by_temperature: bool = key(
        False, "multiply divergences by temperature², which keeps their gradients' size"
    )
    alpha: float = key(0.5, "of akl: probability mass of the teacher's tail", minimum=0, maximum=1)
    skew: float = key(0.1, "of skl and srkl: share of the own distribution", above=0, below=1)


@dataclass
class DskdConfig:
    """Dual-space distillation, the loss dskd; temperatures, alpha and skew are those of [kd]."""

    divergence: str = key(
        "srkl", "divergence from projected teacher to student", choices=DIVERGENCES
    )


@dataclass
class UldConfig:
    """Universal logit distillation, the loss uld."""

    aligned: bool = key(False, "pair positions where aligned chunks end (published: by number)")


@dataclass
class MinedConfig:
    """Minimal edit distance mapping, the loss mined."""

    mapping: str = key("", "file written by scripts/compute_mined_mapping.py")
