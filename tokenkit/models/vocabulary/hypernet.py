"""A vocabulary whose matrices are predicted by a hypernetwork.

The matrices are predicted once an optimizer step and then are leaves, so that all its
micro-batches share them and their gradients add up there; one backward pass through the
hypernetwork follows. Tokens go through the network in chunks, which backward recomputes, and
data-parallel ranks share the tokens among them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tokenkit.config.schema_hypernet import HypernetConfig
from tokenkit.models.hypernet import Hypernet
from tokenkit.models.vocabulary.table import Vocabulary
from tokenkit.tokenizers.sampling.token_forms import TokenForms, own_forms

CHUNK_BYTES = {"cpu": 2**26, "cuda": 2**29}  # of one fp32 activation of a chunk
BYTES = 256


class HypernetVocabulary(Vocabulary):
    """Source matrices (``input``, ``output``), a hypernetwork, and what it predicts from them.

    Args:
        rows: of the source matrices.
        byte_embeddings: have embeddings of bytes of its own, known as ids ``rows + byte``.
        compute_dtype: of the hypernetwork's matmuls and of the matrices that are used.
        tied, valid_vocab, and the rest: see :class:`Vocabulary`; ``valid_vocab`` is that of the
            source, and of what is predicted from :meth:`TokenForms.valid`.
    """

    stays_gathered = False
    forward_methods = ("predict", "embeddings_of")

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
        self.group: dist.ProcessGroup | None = None  # ranks that share the work
        self._mine: Tensor | None = None  # this rank's rows of the prediction, in its graph
        self._leaves: tuple[Tensor, ...] = ()  # [V, D] each, fp32
        self._used: tuple[Tensor, ...] = ()  # the same in the compute dtype

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
        ranks = 1 if self.group is None else dist.get_world_size(self.group)
        share = -(-len(forms) // ranks)
        # Every so many-th token: long ones may all be at the end.
        first = 0 if self.group is None else dist.get_rank(self.group)
        parts = (forms.ids, forms.mask, forms.copied)
        mine = predict(*(part[first::ranks] for part in parts))
        if len(mine) < share:
            mine = torch.cat([mine, mine.new_zeros(share - len(mine), *mine.shape[1:])])
        whole = mine.detach()
        if ranks > 1:
            gathered = mine.new_empty(ranks, *mine.shape)
            dist.all_gather_into_tensor(gathered.flatten(0, 1), whole, group=self.group)
            whole = gathered.transpose(0, 1).flatten(0, 1)
        self._mine = mine if mine.requires_grad else None
        leaves = [part.contiguous() for part in whole[: len(forms)].unbind(1)]
        self._leaves = tuple(leaf.requires_grad_(self._mine is not None) for leaf in leaves)
        self._used = tuple(leaf.to(self.compute_dtype) for leaf in self._leaves)
        self.valid_vocab = forms.valid

    def _learn(self) -> None:
        """Send the gradient that the matrices have gathered back through the hypernetwork.

        Gradients of losses that each rank multiplied by the number of ranks are summed here and
        averaged, with the parameters' gradients, by FSDP.
        """
        mine, leaves = self._mine, self._leaves
        if mine is None:
            return
        ranks = 1 if self.group is None else dist.get_world_size(self.group)
        grad = mine.new_zeros(ranks, *mine.shape)
        for k, leaf in enumerate(leaves):
            for rank in range(ranks) if leaf.grad is not None else ():
                rows = leaf.grad[rank::ranks]
                grad[rank, : len(rows), k] = rows
            leaf.grad = None
        if ranks > 1:
            summed = torch.empty_like(mine)
            dist.reduce_scatter_tensor(summed, grad.flatten(0, 1), group=self.group)
            grad = summed[None]
        mine.backward(grad[0])

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
