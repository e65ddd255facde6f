"""The sections about predicted embeddings: ``[hypernet]`` and ``[tokenizer_sampler]``."""

from __future__ import annotations

from dataclasses import dataclass

from tokenkit.config.key import key


@dataclass
class HypernetConfig:
    """Embeddings predicted by a network instead of looked up (ZeTT, arXiv 2405.07883).

    Without ``[tokenizer_sampler]`` it projects the rows of the student's own table.
    """

    architecture: str = key(
        "",
        "network that makes the embeddings (empty: none, a plain table)",
        choices=("", "transformer", "linear", "identity"),
    )
    num_layers: int = key(3, "transformer layers", minimum=1)
    num_heads: int = key(16, "attention heads", minimum=1)
    hidden_expansion_factor: int = key(2, "width of the MLPs, in hidden sizes", minimum=1)
    use_attention: bool = key(True, "attend between the tokens of a surface form (else MLPs only)")
    use_attention_mask: bool = key(True, "leave out the padding of surface forms")
    multiply_hidden_dim_by_num_embeddings: bool = key(
        True, "untied models: as wide as input and output row together (else one hidden size)"
    )
    shared: bool = key(True, "untied models: one network for both matrices (else one for each)")
    residual: bool = key(True, "predict the difference from a token's own embeddings")
    residual_alpha: float = key(8.0, "the difference is scaled by this / sqrt(hidden size)")
    pooling: str = key("first", "which states become the prediction", choices=("first", "mean"))
    residual_pooling: str = key(
        "first", "which embeddings it is added to", choices=("first", "mean")
    )
    max_surface_length: int = key(8, "longest surface form in source tokens", minimum=1)
    byte_embeddings: bool = key(
        False, "learn embeddings of bytes that are no text (else the source's byte tokens)"
    )
    identity_steps: int = key(
        0,
        "first steps, in which it learns to give source tokens back as they are (residual = false)",
        minimum=0,
    )
    identity_lr: float = key(3e-4, "learning rate the identity phase rises to", minimum=0)
    identity_tokens: int = key(16384, "source tokens per step of the identity phase", minimum=1)


@dataclass
class TokenizerSamplerConfig:
    """A new tokenizer for every optimizer step, sampled from texts (ZeTT, section 3.2)."""

    enable: bool = key(False, "train the hypernet on sampled tokenizers")
    size_mean: float = key(32768.0, "mean of the vocabulary's size", above=0)
    size_std: float = key(0.0, "standard deviation of the size", minimum=0)
    size_min: int = key(16384, "smallest vocabulary", minimum=1)
    size_max: int = key(32768, "largest vocabulary; all are padded to it", minimum=1)
    max_bytes: int = key(16, "longest token in bytes", minimum=1)
    noise_mean: float = key(1e-5, "median of the scores' noise (0: none)", minimum=0)
    noise_sigma: float = key(4.0, "spread of the noise, log-normal", minimum=0)
    texts: int = key(2048, "training texts a tokenizer is sampled from", minimum=1)
    text_characters: int = key(2048, "characters read of each, from a random place", minimum=16)
