"""Hypernetwork: a token's embeddings from the embeddings of its surface form.

After Minixhofer et al., "Zero-Shot Tokenizer Transfer" (arXiv 2405.07883, §3.3). The embeddings
of the tokens that spell a token are brought to a common scale, run through a small transformer,
pooled, and brought back to the scale of the model's embeddings. With n = 2 the network predicts
input and output rows together.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenkit.config.schema_hypernet import HypernetConfig

INITIAL_STD = 0.02
LAYER_NORM_EPSILON = 1e-12
EPSILON = 1e-8


class Rescaler(nn.Module):
    """``x · weight + bias`` for x ``[..., n, D]``.

    Both are constants, fitted once to the source vocabulary and never trained (as published).
    """

    def __init__(self, num_embeddings: int, hidden_size: int) -> None:
        super().__init__()
        # Not on the meta device that models are built on: what buffers hold outlives materialising.
        shape = (num_embeddings, hidden_size)
        self.register_buffer("weight", torch.ones(shape, device="cpu"))
        self.register_buffer("bias", torch.zeros(shape, device="cpu"))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight + self.bias

    def set(self, weight: Tensor, bias: Tensor) -> None:
        self.weight.copy_(weight)
        self.bias.copy_(bias)


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation ``[n, D]`` of x ``[..., n, D]``."""
    flat = x.flatten(0, -3)
    return flat.mean(0), flat.std(0, correction=0)


def scale_to(found: tuple[Tensor, Tensor], wanted: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Weight and bias that turn one mean and standard deviation into another."""
    weight = wanted[1] / (found[1] + EPSILON)
    return weight, wanted[0] - found[0] * weight


class SelfAttention(nn.Module):
    """Attention without an output projection; padding is not attended to."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        batch, length, width = x.shape
        q, k, v = (
            project(x).view(batch, length, self.heads, -1).transpose(1, 2)
            for project in (self.query, self.key, self.value)
        )
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :])
        return out.transpose(1, 2).reshape(batch, length, width)


class Layer(nn.Module):
    """A post-norm transformer layer, with or without attention."""

    def __init__(self, width: int, config: HypernetConfig) -> None:
        super().__init__()
        inner = width * config.hidden_expansion_factor
        self.attention = SelfAttention(width, config.num_heads) if config.use_attention else None
        self.attention_norm = (
            nn.LayerNorm(width, LAYER_NORM_EPSILON) if config.use_attention else None
        )
        self.intermediate = nn.Linear(width, inner)
        self.output = nn.Linear(inner, width)
        self.norm = nn.LayerNorm(width, LAYER_NORM_EPSILON)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        if self.attention is not None:
            x = self.attention_norm(x + self.attention(x, mask))
        inner = F.gelu(self.intermediate(x), approximate="tanh")
        return self.norm(x + self.output(inner))


class Transformer(nn.Module):
    """Surface forms ``[V, L, n, D]`` → ``[V, n, D]``, zero at the start."""

    def __init__(self, config: HypernetConfig, num_embeddings: int, hidden_size: int) -> None:
        super().__init__()
        joined = num_embeddings * hidden_size
        wide = config.multiply_hidden_dim_by_num_embeddings
        width = joined if wide else hidden_size
        self.pooling = config.pooling
        self.input = None if wide else nn.Linear(joined, width)
        self.positions = nn.Embedding(config.max_surface_length, width)
        self.layers = nn.ModuleList(Layer(width, config) for _ in range(config.num_layers))
        self.output = nn.Linear(width, joined)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        rows, length, *shape = x.shape
        x = x.flatten(2)
        if self.input is not None:
            x = self.input(x)
        x = x + self.positions.weight[:length]
        for layer in self.layers:
            x = layer(x, mask)
        return self.output(pool(x, mask, self.pooling)).view(rows, *shape)


class Linear(nn.Module):
    """One linear map from the pooled embeddings, zero at the start."""

    def __init__(self, config: HypernetConfig, num_embeddings: int, hidden_size: int) -> None:
        super().__init__()
        self.pooling = config.pooling
        self.output = nn.Linear(num_embeddings * hidden_size, num_embeddings * hidden_size)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        pooled = pool(x, mask, self.pooling)
        return self.output(pooled.flatten(1)).view_as(pooled)


NETWORKS = {"transformer": Transformer, "linear": Linear}


def pool(x: Tensor, mask: Tensor, how: str) -> Tensor:
    """First, or mean over unmasked, of ``[V, L, ...]`` along L."""
    if how == "first":
        return x[:, 0]
    weights = mask.view(*mask.shape, *[1] * (x.ndim - 2)).to(x.dtype)
    return (x * weights).sum(1) / weights.sum(1).clamp(min=1.0)


class Hypernet(nn.Module):
    """Embeddings of tokens from those of their surface forms.

    Args:
        num_embeddings: n, rows predicted for a token: 1 (tied model) or 2 (input and output).
        hidden_size: D.
        compute_dtype: of the network's matmuls; rescaling and residual stay in fp32.
    """

    def __init__(
        self,
        config: HypernetConfig,
        num_embeddings: int,
        hidden_size: int,
        compute_dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.config = config
        self.num_embeddings, self.hidden_size = num_embeddings, hidden_size
        self.compute_dtype = compute_dtype
        self.in_rescaler = self.out_rescaler = None
        self.networks = nn.ModuleList()
        if config.architecture == "identity":
            return
        self.in_rescaler = Rescaler(num_embeddings, hidden_size)
        self.out_rescaler = Rescaler(num_embeddings, hidden_size)
        make = NETWORKS[config.architecture]
        copies = 1 if config.shared else num_embeddings
        for _ in range(copies):
            self.networks.append(make(config, num_embeddings // copies, hidden_size))

    @property
    def sees_padding(self) -> bool:
        """Whether a prediction changes with the length that surface forms are padded to."""
        config = self.config
        return config.architecture != "identity" and not config.use_attention_mask

    def forward(self, embeddings: Tensor, mask: Tensor) -> Tensor:
        """Predict embeddings.

        Args:
            embeddings: ``[V, L, n, D]`` of the tokens of each surface form.
            mask: ``[V, L]`` bool, True where a form has a token.

        Returns:
            ``[V, n, D]``, fp32.
        """
        if self.out_rescaler is None:
            return embeddings[:, 0]
        return self.out_rescaler(self._unscaled(embeddings, mask))

    def _unscaled(self, embeddings: Tensor, mask: Tensor) -> Tensor:
        config = self.config
        if not config.use_attention_mask:
            mask = torch.ones_like(mask)
        scaled = self.in_rescaler(embeddings.float())
        parts = scaled.chunk(len(self.networks), dim=2)
        device, dtype = scaled.device.type, self.compute_dtype
        with torch.autocast(device, dtype, enabled=dtype != torch.float32):
            found = [net(part, mask) for net, part in zip(self.networks, parts, strict=True)]
        predicted = torch.cat(found, 1).float()
        if not config.residual:
            return predicted
        weight = config.residual_alpha / math.sqrt(self.hidden_size)
        return pool(scaled, mask, config.residual_pooling) + weight * predicted

    @torch.no_grad()
    def initialize(self, embeddings: Tensor, generator: torch.Generator) -> None:
        """Draw the weights, and fit the rescalers to a vocabulary.

        The input comes to mean 0 and standard deviation √(2 / D), and tokens that spell
        themselves are predicted with the statistics of ``embeddings``; with ``residual``, where
        the network begins at zero, exactly as they are.

        Args:
            embeddings: ``[V, n, D]`` of the source vocabulary; anything with fp32 chunks.
        """
        for name, parameter in self.networks.named_parameters():
            if name.endswith("norm.weight"):
                parameter.fill_(1.0)
            elif name.endswith("bias") or (self.config.residual and name.split(".")[1] == "output"):
                parameter.zero_()
            elif "positions" in name:
                std = 1.0 / math.sqrt(self.hidden_size)
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)
            else:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * INITIAL_STD)
        if self.in_rescaler is not None:
            self.fit_rescalers(embeddings.float().unsqueeze(1))

    @torch.no_grad()
    def fit_rescalers(self, embeddings: Tensor) -> None:
        """Fit them to surface forms ``[V, L, n, D]`` without padding, fp32."""
        mean, std = moments(embeddings)
        in_std = torch.full_like(std, math.sqrt(2.0 / self.hidden_size))
        self.in_rescaler.set(*scale_to((mean, std), (torch.zeros_like(mean), in_std)))
        chunks = embeddings.split(4096)
        masks = [chunk.new_ones(chunk.shape[:2], dtype=torch.bool) for chunk in chunks]
        raw = [self._unscaled(chunk, mask) for chunk, mask in zip(chunks, masks, strict=True)]
        found, wanted = moments(torch.cat(raw)), moments(embeddings[:, 0])
        self.out_rescaler.set(*scale_to(found, wanted))
