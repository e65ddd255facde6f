"""Building and first filling of a predicted vocabulary."""

from __future__ import annotations

import torch
from torch import Tensor

from tokenkit.config.schema_hypernet import HypernetConfig
from tokenkit.errors import ConfigError
from tokenkit.models.hypernet import Hypernet
from tokenkit.models.vocabulary.hypernet import BYTES, HypernetVocabulary
from tokenkit.models.vocabulary.table import Vocabulary
from tokenkit.ops.copy_full import copy_full


def build_hypernet_vocabulary(
    hypernet: HypernetConfig, table: Vocabulary, compute_dtype: torch.dtype
) -> HypernetVocabulary:
    """A predicted vocabulary over a built table, on the meta device.

    Raises:
        ConfigError: if the width does not divide by the heads.
    """
    hidden = table.input.shape[1]
    tied = table.output is None
    joined = not tied and hypernet.multiply_hidden_dim_by_num_embeddings and hypernet.shared
    width = 2 * hidden if joined else hidden
    transformer = hypernet.architecture == "transformer"
    if transformer and hypernet.use_attention and width % hypernet.num_heads:
        raise ConfigError(
            f"hypernet.num_heads = {hypernet.num_heads} does not divide the hypernetwork's "
            f"width, {width}"
        )
    return HypernetVocabulary(
        table.input.shape[0],
        hidden,
        hypernet,
        tied=tied,
        compute_dtype=compute_dtype,
        byte_embeddings=hypernet.byte_embeddings,
        valid_vocab=table.valid_vocab,
        embed_scale=table.embed_scale,
        softcap=table.softcap,
        logit_scale=table.logit_scale,
        device="meta",
        dtype=table.input.dtype,
    )


@torch.no_grad()
def fill_hypernet(
    vocabulary: HypernetVocabulary, matrices: tuple[Tensor, Tensor | None], seed: int
) -> None:
    """Give a materialised hypernetwork its first values, the same on all ranks.

    Args:
        matrices: input and output matrix ``[V, D]`` of the tokens that it starts from.
    """
    inputs, outputs = matrices
    given = (
        [inputs] if vocabulary.output is None else [inputs, inputs if outputs is None else outputs]
    )
    embeddings = torch.stack([matrix.float() for matrix in given], 1)
    net = vocabulary.hypernet
    generator = torch.Generator().manual_seed(seed)
    drawn = Hypernet(net.config, net.num_embeddings, net.hidden_size)
    drawn.initialize(embeddings, generator)
    for name, parameter in net.named_parameters():
        copy_full(parameter, drawn.get_parameter(name))
    for name, buffer in net.named_buffers():
        buffer.copy_(drawn.get_buffer(name))
    if vocabulary.extra is not None:
        std, mean = torch.std_mean(embeddings, 0, correction=0)
        noise = torch.randn(BYTES, *mean.shape, generator=generator)
        copy_full(vocabulary.extra, mean + std * noise)
