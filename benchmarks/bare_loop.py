"""The same work as a step of train.py, by hand: two transformers models, two losses, AdamW.

Nothing of tokenkit but its chunked scores and segment sums: no collator, hooks, counts, balance,
metrics or checks. What train.py's step takes longer is what all these cost.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel

from tokenkit.batch import Sequences, StepBatch
from tokenkit.ops.linear_scores import linear_scores
from tokenkit.ops.segments import segment_sum


class BareModel(nn.Module):
    """A backbone and one matrix for both ends."""

    def __init__(self, shape: dict, rows: int, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__()
        config = AutoConfig.for_model("llama", **{**shape, "vocab_size": rows})
        with torch.device(device):
            self.backbone = AutoModel.from_config(config, dtype=dtype)

    @property
    def matrix(self) -> Tensor:
        return self.backbone.embed_tokens.weight

    def forward(self, seq: Sequences, boundary: Tensor) -> tuple[Tensor, Tensor]:
        """Scores of labels and boundaries, ``[B, T]``, at the place that predicts."""
        embeddings = F.embedding(seq.ids, self.matrix)
        hidden = self.backbone(inputs_embeds=embeddings, use_cache=False).last_hidden_state
        labels = F.pad(seq.ids[:, 1:], (0, 1))
        scores = linear_scores(hidden.flatten(0, 1), self.matrix, labels.flatten(), boundary)
        shape = seq.ids.shape
        return scores.label_logprob.view(shape), scores.boundary_logprob.view(shape)


class BareLoop:
    """Steps of sft + alm on ready-made batches, fully trained, beside a frozen teacher."""

    def __init__(self, shape: dict, rows: tuple[int, int], device: torch.device) -> None:
        self.dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        self.teacher = BareModel(shape, rows[0], device, self.dtype).eval().requires_grad_(False)
        self.student = BareModel(shape, rows[1], device, torch.float32).eval()
        self.masks = [torch.arange(n, device=device) % 5 < 2 for n in rows]
        self.optimizer = torch.optim.AdamW(self.student.parameters(), lr=1e-5, fused=True)

    def __call__(self, batch: StepBatch) -> None:
        for micro in batch.micro_batches:
            with torch.autocast(micro.student.ids.device.type, self.dtype, self.dtype.itemsize < 4):
                self._losses(micro.student, micro.teacher).backward()
        nn.utils.clip_grad_norm_(self.student.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def _losses(self, student: Sequences, teacher: Sequences) -> Tensor:
        with torch.no_grad():
            theirs = self._chunks(*self.teacher(teacher, self.masks[0]), teacher)
        label, boundary = self.student(student, self.masks[1])
        mine = self._chunks(label, boundary, student, theirs.shape[1])
        p, q = (theirs / 100).exp(), (mine / 100).clamp(max=-1e-6)
        alm = -(p * q + (1 - p) * torch.log1p(-q.exp())).mean()
        return alm - (label * student.mask).sum() / student.mask.sum()

    @staticmethod
    def _chunks(label: Tensor, boundary: Tensor, seq: Sequences, size: int = 0) -> Tensor:
        """Log-probs of chunks, each with the boundary after its last token."""
        chunks = seq.chunks["unconstrained"].long()
        at_token = F.pad(label[:, :-1], (1, 0))
        last = chunks != F.pad(chunks[:, 1:], (0, 1), value=-1)
        return segment_sum(at_token + boundary * last, chunks, size or seq.ids.shape[1])
