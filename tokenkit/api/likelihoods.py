"""Approximate likelihood matching on log-probs that a user computed in any way."""

from __future__ import annotations

from functools import lru_cache
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from tokenkit.batch import Sequences
from tokenkit.config import config_from_dict
from tokenkit.config.keys import all_keys
from tokenkit.config.validate_values import check_values
from tokenkit.errors import ConfigError, ModelError
from tokenkit.losses.alm import ALM, UnconstrainedALM, settings_problems
from tokenkit.models.outputs import Outputs

KIND = UnconstrainedALM.chunk_kind  # ids are the user's: what kind they are plays no part
ROUNDING = 1e-3  # what rounding may lift a log-prob above 0


def alm_loss(
    student_logprob: Tensor,
    teacher_logprob: Tensor,
    student_chunks: Tensor,
    teacher_chunks: Tensor,
    student_boundary: Tensor | None = None,
    teacher_boundary: Tensor | None = None,
    **options: Any,
) -> Tensor:
    """ALM ([arXiv 2503.20083](https://arxiv.org/abs/2503.20083)): equal bytes, equal probability.

    B rows, T_s tokens of the student and T_t of the teacher, padded on the right. A log-prob
    stands at its own token: ``student_logprob[b, t]`` is log p(token t | the tokens before it), in
    nats. The first token of a row has none; what stands there is not read, and a chunk that holds
    it on either side does not count.

    Args:
        student_logprob: ``[B, T_s]``, differentiable.
        teacher_logprob: ``[B, T_t]``; no gradient flows into it.
        student_chunks: ``[B, T_s]`` integers, such as ``tk.align`` gives: chunk k of a row covers
            the same bytes on both sides; -1 for padding, tokens in no chunk, and tokens that
            shall not count (a prompt, say).
        teacher_chunks: ``[B, T_t]``, the same.
        student_boundary: ``[B, T_s]``, log-prob that a boundary (a space, say) follows token t;
            see ``tk.linear_scores``. Not needed with ``mode=""``.
        teacher_boundary: ``[B, T_t]``, the same.
        options: those of :func:`alm_sum`.

    Returns:
        The mean over chunks (or tokens, by ``denominator``), 0-d; 0 where no chunk counts. fp32,
        or float64 for float64 inputs. What training computes on one batch, exactly.

    Raises:
        ConfigError: for an unknown option or value, or boundaries that the mode needs and that
            are missing.
        ModelError: for shapes that do not go together, or log-probs above 0.

    Examples:
        >>> import tokenkit as tk, torch
        >>> teacher, student = tk.load_tokenizer(FOLDER_A), tk.load_tokenizer(FOLDER_B)
        >>> pair = tk.align("Hello, tokenizers!", teacher, student)
        >>> chunks = {}
        >>> for name in ("teacher", "student"):  # [B, T], here of one row
        ...     chunks[name] = torch.from_numpy(getattr(pair, name).chunks)[None]
        >>> known = torch.full((1, chunks["teacher"].shape[1]), -2.0)  # your teacher's log-probs
        >>> mine = torch.full((1, chunks["student"].shape[1]), -3.0, requires_grad=True)
        >>> loss = tk.alm_loss(mine, known, chunks["student"], chunks["teacher"], mode="")
        >>> loss.backward()
        >>> f"{loss.item():.4f}"
        '0.1039'
        >>> mine.grad[0, 0].item()  # BOS comes first: nothing predicts it
        0.0
    """
    total, count = alm_sum(
        student_logprob,
        teacher_logprob,
        student_chunks,
        teacher_chunks,
        student_boundary,
        teacher_boundary,
        **options,
    )
    return total / count.clamp(min=1.0)


def alm_sum(
    student_logprob: Tensor,
    teacher_logprob: Tensor,
    student_chunks: Tensor,
    teacher_chunks: Tensor,
    student_boundary: Tensor | None = None,
    teacher_boundary: Tensor | None = None,
    *,
    diff_fn: str = "binary_ce",
    mode: str = "merge_by_space_prob+append_space",
    temperature: float = 100.0,
    merge_threshold: float = 0.1,
    numerator: str = "chunk_count",
    denominator: str = "chunk_count",
    renyi_alpha: float = 2.0,
    student_scored: Tensor | None = None,
    teacher_scored: Tensor | None = None,
    check: bool = True,
) -> tuple[Tensor, Tensor]:
    """Numerator and denominator of :func:`alm_loss`, for gradient accumulation and many ranks.

    Add up both over micro-batches and ranks, then divide: a mean of means is another loss where
    batches differ in their number of chunks.

    ``student_logprob``, ``teacher_logprob``, ``student_chunks``, ``teacher_chunks``,
    ``student_boundary`` and ``teacher_boundary`` are those of :func:`alm_loss`.

    Args:
        diff_fn: difference of two chunk log-probs: ``binary_ce``, ``reverse_binary_kl``, ``abs``,
            ``abs_exp``, ``binary_kl_temp_limit``, ``renyi``, ``joschu_k2``, ``joschu_k3``.
        mode: any of ``merge_by_space_prob`` and ``append_space``, joined by ``+``; ``""`` compares
            chunks as they are. (``eos_as_space`` says what a boundary is: here you do.)
        temperature: divides chunk log-probs.
        merge_threshold: probability of a boundary, by the teacher, that closes a merged chunk.
        numerator: weight of a chunk: ``chunk_count`` (1), ``token_count`` or
            ``log1p_token_count``, of the teacher's tokens.
        denominator: ``chunk_count`` or ``token_count``.
        renyi_alpha: order of ``renyi``.
        student_scored: bool ``[B, T_s]``, tokens that have a log-prob; default all but the first
            of each row. Packed rows have more that have none.
        teacher_scored: bool ``[B, T_t]``, the same.
        check: whether to look for log-probs above 0, which makes a GPU wait.

    Returns:
        Σ of weighted differences, 0-d and differentiable, and the number of chunks (or tokens).

    Raises:
        ConfigError, ModelError: as :func:`alm_loss`.
    """
    loss = _loss(
        diff_fn, mode, temperature, merge_threshold, numerator, denominator, renyi_alpha
    )  # fmt: skip
    student = _side(
        "student", student_logprob, student_chunks, student_boundary, student_scored, loss, check
    )
    teacher = _side(
        "teacher", teacher_logprob, teacher_chunks, teacher_boundary, teacher_scored, loss, check
    )
    if len(student.token_logprob) != len(teacher.token_logprob):
        raise ModelError(
            f"student_logprob has {len(student.token_logprob)} rows, but teacher_logprob has "
            f"{len(teacher.token_logprob)}: both sides read the same rows"
        )
    with torch.no_grad():
        match = loss.match(student.seq, teacher)
    one = torch.ones((), device=student.token_logprob.device)
    return loss(match, student, teacher, one)[0], loss.count(match)


@lru_cache(maxsize=32)
def _loss(
    diff_fn: str,
    mode: str,
    temperature: float,
    merge_threshold: float,
    numerator: str,
    denominator: str,
    renyi_alpha: float,
) -> ALM:
    """The loss that training builds of these settings."""
    alm = dict(
        diff_fn=diff_fn,
        mode=mode,
        temperature=temperature,
        merge_threshold=merge_threshold,
        numerator=numerator,
        denominator=denominator,
        renyi_alpha=renyi_alpha,
    )
    config = config_from_dict({"alm": alm})
    keys = all_keys()
    found = [check_values(keys[f"alm.{name}"], value) for name, value in alm.items()]
    for problem in chain(*found, settings_problems(config)):
        raise ConfigError(problem)
    return UnconstrainedALM(config)


def _side(
    side: str,
    logprob: Tensor,
    chunks: Tensor,
    boundary: Tensor | None,
    scored: Tensor | None,
    loss: ALM,
    check: bool,
) -> Outputs:
    """One side as losses see it.

    Raises:
        ConfigError, ModelError: naming the argument.
    """
    if logprob.dim() != 2 or not logprob.is_floating_point():
        raise ModelError(
            f"{side}_logprob is {_said(logprob)}: log-probs of tokens are floating [B, T]"
        )
    if boundary is None and "boundary" in loss.needs:
        raise ConfigError(
            f"mode = {'+'.join(sorted(loss.modes))!r} reads {side}_boundary, which is missing: "
            'give it, or mode="" to compare chunks as they are'
        )
    for name, tensor in (("chunks", chunks), ("boundary", boundary), ("scored", scored)):
        if tensor is not None and tensor.shape != logprob.shape:
            raise ModelError(
                f"{side}_{name} is {_said(tensor)}, but {side}_logprob is {_said(logprob)}: both "
                "are [B, T] of the same tokens"
            )
    if chunks.is_floating_point() or chunks.dtype == torch.bool:
        raise ModelError(f"{side}_chunks is {_said(chunks)}: chunk ids are integers, -1 for none")
    if scored is None:
        scored = torch.ones_like(chunks, dtype=torch.bool)
        scored[:, :1] = False
    values = {"logprob": logprob, "boundary": boundary}
    kept = {}
    for name, tensor in values.items():
        if tensor is not None and side == "teacher":
            tensor = tensor.detach()
        if tensor is not None and tensor.dtype not in (torch.float32, torch.float64):
            tensor = tensor.float()
        kept[name] = tensor
        if check and tensor is not None:
            _check_at_most_zero(tensor, (chunks >= 0) & scored, f"{side}_{name}")
    active = chunks >= 0
    seq = Sequences.of(torch.zeros_like(chunks, dtype=torch.long), active, active, {KIND: chunks})
    seq.scored = scored
    token = torch.where(scored, kept["logprob"], 0.0)
    return Outputs(seq, token, kept["boundary"])


def _check_at_most_zero(values: Tensor, where: Tensor, name: str) -> None:
    highest = torch.where(where, values.detach(), 0.0).max().item() if values.numel() else 0.0
    if not highest <= ROUNDING:  # NaN, too
        raise ModelError(
            f"{name} has a value of {highest:.4g}: log-probs are at most 0 (are these losses, "
            "probabilities or logits?)"
        )


def _said(tensor: Tensor) -> str:
    """Shape and dtype."""
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
