"""The vocabulary: everything about a model that knows token ids.

The backbone sees embeddings and returns hidden states; this module owns the input and output
matrices and answers two questions, ``embed(seq)`` and ``scores(hidden, seq)``. Swapping a
tokenizer means swapping this module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenkit.models.vocabulary.placement import Placement, Sharing
from tokenkit.ops.chunked_loss import LogitFunction, OwnColumns, chunked_loss
from tokenkit.ops.copy_full import copy_full
from tokenkit.ops.linear_scores import Scores, linear_scores
from tokenkit.ops.logit_blocks import Head, LogitBlocks

if TYPE_CHECKING:
    from tokenkit.batch import Sequences
    from tokenkit.config import Config
    from tokenkit.models.vocabulary.expanded import Expansion
    from tokenkit.tokenizers.sampling.token_forms import TokenForms


class Vocabulary(nn.Module):
    """Input and output matrices of a model.

    Args:
        rows: rows of the matrices, padding included.
        hidden_size: width D.
        tied: the output matrix is the input matrix.
        valid_vocab: rows from here on belong to no token and are never predicted.
        embed_scale: factor on input embeddings (Gemma).
        softcap: ``softcap * tanh(logits / softcap)`` (Gemma 2).

    Attributes:
        placement: where the rows are.
        sharing: who predicts them, of a kind that does.
        boundary: ``[rows]`` bool, tokens that begin a new word; None until :meth:`set_boundary`.
        tokens: what the matrices stand for, where that changes from step to step.
    """

    # What parallelisms need to know of a kind:
    at_both_ends = True  # used at both ends of a forward pass, so that it should stay gathered
    forward_methods = ("embed", "scores")  # need the parameters whole
    rows_are_parameters = True  # so that they can be spread over ranks
    casts_itself = False  # to the compute dtype, and only what may be cast

    def __init__(
        self,
        rows: int,
        hidden_size: int,
        *,
        tied: bool,
        valid_vocab: int,
        embed_scale: float = 1.0,
        softcap: float | None = None,
        logit_scale: float = 1.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        shape = (rows, hidden_size)
        self.input = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        self.output = None if tied else nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        self.valid_vocab = valid_vocab
        self.embed_scale = embed_scale
        self.softcap = softcap
        self.logit_scale = logit_scale
        self.placement, self.sharing = Placement(), Sharing()
        self.boundary: Tensor | None = None
        self.tokens: TokenForms | None = None

    @classmethod
    def wanted(cls, config: Config) -> bool:
        """Whether a config asks for this kind."""
        return False

    @classmethod
    def over(
        cls,
        table: Vocabulary,
        config: Config,
        compute_dtype: torch.dtype,
        expansion: Expansion | None,
    ) -> Vocabulary:
        """A vocabulary of this kind, on the meta device, in the place of a built table.

        Args:
            expansion: what bytes are expanded by, with ``student.expand_input_ids``.

        Raises:
            ConfigError: if it does not fit.
        """
        return table

    @property
    def expansion(self) -> Expansion | None:
        """What each position reads beside its id; None: nothing."""
        return None

    def fill(self, inputs: Tensor, outputs: Tensor | None) -> None:
        """Copy matrices ``[V, D]`` into the materialised ones; missing rows become zero."""
        for parameter, matrix in ((self.input, inputs), (self.output, outputs)):
            if parameter is not None:
                matrix = inputs if matrix is None else matrix
                copy_full(parameter, F.pad(matrix, (0, 0, 0, parameter.shape[0] - len(matrix))))

    def initialize(self, matrices: tuple[Tensor, Tensor | None], seed: int) -> None:
        """Give first values, the same on all ranks, to what no source model has.

        Args:
            matrices: input and output matrix ``[V, D]`` that the student starts from.
        """

    @contextmanager
    def step(self, forms: TokenForms | None, predict: Callable[..., Tensor]) -> Iterator[None]:
        """Around what is done with the matrices in one optimizer step.

        Matrices that are parameters are always there. A kind that predicts them does so on entry
        and is trained on the gradient they gathered on leaving.

        Args:
            forms: the tokens to predict; None: the vocabulary's own.
            predict: ``self.predict``, called in the way that parallelism wants.
        """
        yield

    def set_boundary(self, tokens: Tensor) -> None:
        """Say which tokens are boundaries; ``[n]`` bool, the rows behind them are none."""
        rows = self.input.shape[0]
        self.boundary = F.pad(tokens, (0, rows - len(tokens))).to(self.input.device)

    @property
    def rows(self) -> int:
        """Rows of the matrices, padding included."""
        return self.input.shape[0]

    @property
    def input_matrix(self) -> Tensor:
        """``[V, D]``, what ids are looked up in."""
        return self.input

    @property
    def output_matrix(self) -> Tensor:
        """``[V, D]``; the input matrix itself if tied."""
        return self.input if self.output is None else self.output

    def embed(self, seq: Sequences) -> Tensor:
        """Input embeddings ``[B, T, D]`` of what is read."""
        return self.scaled(self.look_up(self.input_matrix, seq.ids))

    def look_up(self, matrix: Tensor, ids: Tensor) -> Tensor:
        """Rows ``[B, T, D]`` of a matrix ``[V, D]``, wherever they are."""
        own = self.placement.local(matrix)
        if own.group is None:
            return F.embedding(ids, own.matrix)
        place = ids - own.first
        inside = (place >= 0) & (place < len(own.matrix))
        found = F.embedding(place.clamp(0, max(len(own.matrix) - 1, 0)), own.matrix)
        return self.placement.join_lookups(found * inside[..., None])

    def scaled(self, embeddings: Tensor) -> Tensor:
        """Embeddings as the first layer wants them."""
        if self.embed_scale == 1.0:
            return embeddings
        # Gemma rounds the factor to the compute dtype, and so must we.
        # Written by the device: a number of the CPU's would be waited for.
        scale = embeddings.new_full((), self.embed_scale)
        return embeddings * scale

    def scores(
        self,
        hidden: Tensor,
        seq: Sequences,
        boundary: bool = True,
        keep_directions: bool = False,
        index: Tensor | None = None,
    ) -> Scores:
        """Scores ``[N]`` of what follows each real token, without ever holding ``[N, V]`` logits.

        Args:
            hidden: ``[B, T, D]`` last hidden states.
            boundary: also of boundaries, where the vocabulary knows which tokens these are.
            keep_directions: needed for :meth:`Outputs.hidden_gradient`.
            index: of the tokens, if not of all real ones.
        """
        index = seq.real_index if index is None else index
        labels = F.pad(seq.ids.flatten()[1:], (0, 1)).index_select(0, index)
        own = self.placement.local(self.output_matrix)
        tokens = self.boundary if boundary else None
        return linear_scores(
            hidden.flatten(0, 1).index_select(0, index),
            own.matrix,
            labels,
            None if tokens is None else own.of(tokens),
            softcap=self.softcap,
            logit_scale=self.logit_scale,
            valid_vocab=own.valid(self.valid_vocab),
            keep_directions=keep_directions,
            first_row=own.first,
            group=own.group,
        )

    def chunked_loss(
        self, function: LogitFunction, hidden: Tensor, *rows: Tensor, train_matrix: bool = True
    ) -> Tensor:
        """Σ ``function(logits [n, valid_vocab], *rows)`` over positions ``hidden [N, D]``, 0-d.

        Logits are fp32 and made for some positions at a time; see :func:`chunked_loss`.
        """
        own = self.placement.local(self.output_matrix)
        columns = None
        if own.group is not None:
            columns = OwnColumns(own.first, self.valid_vocab, self._join_columns, own.group)
        return chunked_loss(
            function,
            hidden.to(own.matrix.dtype),
            own.matrix if train_matrix else own.matrix.detach(),
            *rows,
            softcap=self.softcap,
            logit_scale=self.logit_scale,
            valid_vocab=own.valid(self.valid_vocab),
            own=columns,
        )

    def _join_columns(self, logits: Tensor) -> Tensor:
        return self.placement.join_columns(logits, self.rows, self.valid_vocab)

    @torch.no_grad()
    def block_logits(self, hidden: Tensor) -> Tensor:
        """fp32 logits ``[n, valid_vocab]`` of few positions ``[n, D]``, without gradient."""
        own = self.placement.local(self.output_matrix)
        valid = own.valid(self.valid_vocab)
        head = Head(self.softcap, self.logit_scale, valid)
        whole = (len(hidden), max(valid, 1))
        blocks = LogitBlocks(hidden.to(own.matrix.dtype), own.matrix, None, head, whole)
        logits = hidden.new_empty(len(hidden), 0, dtype=blocks.dtype)
        for columns, factor in blocks:  # one block, or none on a rank without valid rows
            logits = blocks.logits(slice(0, len(hidden)), columns, factor)[:, :valid]
        return self._join_columns(logits)

    def logits(self, hidden: Tensor) -> Tensor:
        """Full logits ``[..., valid_vocab]`` in the dtype of ``hidden``, for generation."""
        matrix = self.placement.whole(self.output_matrix)
        logits = F.linear(hidden, matrix[: self.valid_vocab]) * self.logit_scale
        if self.softcap is not None:
            logits = self.softcap * torch.tanh(logits / self.softcap)
        return logits
