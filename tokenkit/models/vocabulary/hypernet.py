"""A vocabulary whose matrices are predicted by a hypernetwork.

The matrices are predicted once an optimizer step and then are leaves, so that all its
micro-batches share them and their gradients add up there; one backward pass through the
hypernetwork follows. Tokens go through the network in chunks, which backward recomputes, and
data-parallel ranks share the tokens among them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tokenkit.config import Config
from tokenkit.config.schema_hypernet import HypernetConfig
from tokenkit.errors import ConfigError
from tokenkit.models.hypernet import Hypernet
from tokenkit.models.vocabulary.expanded import Expansion
from tokenkit.models.vocabulary.registry import VOCABULARIES
from tokenkit.models.vocabulary.table import Vocabulary
from tokenkit.ops.copy_full import copy_full
from tokenkit.tokenizers.sampling.token_forms import TokenForms, own_forms

CHUNK_BYTES = {"cpu": 2**26, "cuda": 2**29}  # of one fp32 activation of a chunk
BYTES = 256


@VOCABULARIES.register("hypernet")
class HypernetVocabulary(Vocabulary):
    """Source matrices (``input``, ``output``), a hypernetwork, and what it predicts from them.

    Args:
        rows: of the source matrices.
        byte_embeddings: have embeddings of bytes of its own, known as ids ``rows + byte``.
        compute_dtype: of the hypernetwork's matmuls and of the matrices that are used.
        tied, valid_vocab, and the rest: see :class:`Vocabulary`; ``valid_vocab`` is that of the
            source, and of what is predicted from :meth:`TokenForms.valid`.
    """

    at_both_ends = False
    forward_methods = ("predict", "embeddings_of")
    rows_are_parameters = False
    casts_itself = True

    def __init__(
        self,
        rows: int,
        hidden_size: int,
        config: HypernetConfig,
        *,
        tied: bool,
        compute_dtype: torch.dtype = torch.float32,
        byte_embeddings: bool = False,
        **options,
    ) -> None:
        super().__init__(rows, hidden_size, tied=tied, **options)
        with torch.device(options.get("device") or "cpu"):
            self.hypernet = Hypernet(config, 1 if tied else 2, hidden_size, compute_dtype)
        self.extra: nn.Parameter | None = None
        if byte_embeddings:
            shape = (BYTES, self.hypernet.num_embeddings, hidden_size)
            made = torch.empty(shape, device=self.input.device, dtype=self.input.dtype)
            self.extra = nn.Parameter(made)
        self.compute_dtype = compute_dtype
        self.source_rows, self.source_valid = rows, self.valid_vocab
        self._mine: Tensor | None = None  # this rank's rows of the prediction, in its graph
        self._leaves: tuple[Tensor, ...] = ()  # [V, D] each, fp32
        self._used: tuple[Tensor, ...] = ()  # the same in the compute dtype

    @classmethod
    def wanted(cls, config: Config) -> bool:
        return bool(config.hypernet.architecture)

    @classmethod
    def over(
        cls,
        table: Vocabulary,
        config: Config,
        compute_dtype: torch.dtype,
        expansion: Expansion | None,
    ) -> Vocabulary:
        # Without sampled tokenizers every token is one of the source's, and spelt by itself.
        sampled = config.tokenizer_sampler.enable
        length = config.hypernet.max_surface_length if sampled else 1
        hypernet = replace(config.hypernet, max_surface_length=length)
        return build_hypernet_vocabulary(hypernet, table, compute_dtype)

    def initialize(self, matrices: tuple[Tensor, Tensor | None], seed: int) -> None:
        fill_hypernet(self, matrices, seed)

    # What the model uses ------------------------------------------------------------------------

    @property
    def input_matrix(self) -> Tensor:
        return self._opened()[0]

    @property
    def output_matrix(self) -> Tensor:
        return self._opened()[-1]

    @property
    def rows(self) -> int:
        return self._opened()[0].shape[0]

    def _opened(self) -> tuple[Tensor, ...]:
        if not self._used:
            raise RuntimeError("the vocabulary's embeddings are not predicted yet: open it first")
        return self._used

    @property
    def predicted(self) -> tuple[Tensor, ...]:
        """The prediction: n matrices ``[V, D]``, fp32 leaves."""
        self._opened()
        return self._leaves

    def own_forms(self) -> TokenForms:
        """Every source token, spelt by itself."""
        ids = torch.arange(self.source_rows, device=self.input.device)
        return own_forms(ids, self.source_valid, self.source_rows)

    # Prediction ---------------------------------------------------------------------------------

    @contextmanager
    def step(self, forms: TokenForms | None, predict: Callable[..., Tensor]) -> Iterator[None]:
        self._open(self.own_forms() if forms is None else forms, predict)
        own_boundary, self.tokens = self.boundary, forms
        if forms is not None:
            self.boundary = forms.boundary
        try:
            yield
            self._learn()
        finally:
            self.boundary, self.tokens = own_boundary, None
            self._mine, self._leaves, self._used = None, (), ()

    def _open(self, forms: TokenForms, predict: Callable[..., Tensor]) -> None:
        """Predict the matrices, each rank some of the tokens."""
        parts = (forms.ids, forms.mask, forms.copied)
        mine = predict(*map(self.sharing.mine, parts))
        whole = self.sharing.gather(mine, len(forms))
        self._mine = mine if mine.requires_grad else None
        leaves = [part.contiguous() for part in whole.unbind(1)]
        self._leaves = tuple(leaf.requires_grad_(self._mine is not None) for leaf in leaves)
        self._used = tuple(leaf.to(self.compute_dtype) for leaf in self._leaves)
        self.valid_vocab = forms.valid

    def _learn(self) -> None:
        """Send the gradient that the matrices have gathered back through the hypernetwork.

        Gradients of losses that each rank multiplied by the number of ranks are summed here and
        averaged, with the parameters' gradients, by FSDP.
        """
        mine, leaves = self._mine, self._leaves
        self._mine, self._leaves, self._used = None, (), ()  # nobody needs them any more
        if mine is None:
            return
        gathered = torch.stack(
            [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves], 1
        )
        for leaf in leaves:
            leaf.grad = None
        grad = self.sharing.reduce(gathered)
        del gathered
        mine.backward(grad)

    def predict(self, ids: Tensor, mask: Tensor, copied: Tensor) -> Tensor:
        """Embeddings ``[V, n, D]`` (fp32) of surface forms ``[V, L]``; differentiable.

        Args:
            copied: ``[V]`` bool, tokens that keep the embeddings of their form's first token.
        """
        lengths = mask.sum(1)
        if self.hypernet.sees_padding:
            lengths = torch.full_like(lengths, ids.shape[1])
        # Forms of one length together: no padding is computed.
        order = lengths.argsort(stable=True)
        counts = torch.bincount(lengths).tolist()
        rows = self._rows_of_one_token(ids.device)
        recompute = torch.is_grad_enabled() and sum(n * k for n, k in enumerate(counts)) > rows
        found = []
        for length, group in enumerate(order.split(counts)):
            for part in group.split(max(1, rows // max(length, 1))) if len(group) else ():
                given = (ids[part, :length], mask[part, :length], copied[part])
                if recompute:
                    found.append(checkpoint(self._predict_chunk, *given, use_reentrant=False,
                                            preserve_rng_state=False))  # fmt: skip
                else:
                    found.append(self._predict_chunk(*given))
        predicted = torch.cat(found)
        return torch.empty_like(predicted).index_copy(0, order, predicted)

    def _rows_of_one_token(self, device: torch.device) -> int:
        """Rows of a chunk, if their forms are one token long."""
        budget = CHUNK_BYTES.get(device.type, CHUNK_BYTES["cpu"])
        width = self.input.shape[1] * self.hypernet.num_embeddings
        return max(1, budget // (4 * width * self.hypernet.config.hidden_expansion_factor))

    def _predict_chunk(self, ids: Tensor, mask: Tensor, copied: Tensor) -> Tensor:
        # The matrices are looked up here, so that backward finds them gathered again.
        embeddings = self._embeddings_of(ids)
        return torch.where(
            copied[:, None, None], embeddings[:, 0].float(), self.hypernet(embeddings, mask)
        )

    def embeddings_of(self, ids: Tensor) -> Tensor:
        """Source embeddings ``[..., n, D]`` of ids, those of bytes included."""
        return self._embeddings_of(ids)

    def _embeddings_of(self, ids: Tensor) -> Tensor:
        matrices = [self.input] if self.output is None else [self.input, self.output]
        known = ids.clamp(max=self.source_rows - 1)
        found = torch.stack([matrix[known] for matrix in matrices], -2)
        if self.extra is None:
            return found
        byte = ids - self.source_rows
        return torch.where((byte >= 0)[..., None, None], self.extra[byte.clamp(min=0)], found)


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
