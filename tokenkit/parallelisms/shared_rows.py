"""A layout of its own for the teacher: ranks that read each other's rows together.

Where more ranks split the teacher's matrices than the student's, they have different rows. Their
embeddings are gathered, the backbone reads the rows of all, and each rank goes on with its own: so
vocabularies are whole on each of these ranks (FSDP apart), and each scores its own rows.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from tokenkit.models.causal_lm import CausalLM
from tokenkit.parallelisms.collectives import gather_tokens


class SharedRows:
    """The ranks whose rows are read together."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.group = group
        self.rank, self.ranks = dist.get_rank(group), dist.get_world_size(group)

    def arrange(self, embeddings: Tensor, read: Callable[..., Tensor]) -> Tensor:
        """Last hidden states ``[B, T, D]`` of this rank's rows."""
        rows, length = embeddings.shape[:2]
        # Every rank has padded its rows to their own length. Said on the CPU: no device waits.
        most = torch.tensor([rows, length])
        dist.all_reduce(most, dist.ReduceOp.MAX, group=self.group)
        missing_rows, missing = (most - torch.tensor([rows, length])).tolist()
        padded = F.pad(embeddings, (0, 0, 0, missing, 0, missing_rows))
        hidden = read(gather_tokens(padded, 0, self.group))
        return self.own(hidden)[:rows, :length]

    def own(self, states: Tensor) -> Tensor:
        """This rank's rows of ``[n B, ...]``."""
        return states.chunk(self.ranks)[self.rank]


def share_rows(model: CausalLM, rows: SharedRows) -> None:
    """Have a frozen model read the rows of several ranks."""
    arrange, tokens, features = model.arrange, model.join_tokens, model.join_features
    model.arrange = lambda x, read: rows.arrange(x, lambda all_rows: arrange(all_rows, read))
    model.join_tokens = lambda states: rows.own(tokens(states))
    model.join_features = lambda projection: rows.own(features(projection))
