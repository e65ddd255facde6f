"""What a loss is: a file with its settings, its demands, its pairing and its value."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

if TYPE_CHECKING:
    from tokenkit.batch import Sequences
    from tokenkit.config import Config
    from tokenkit.models.outputs import Outputs
    from tokenkit.tokenizers import ByteifiedTokenizer


class Loss(nn.Module):
    """One objective; register a subclass in ``LOSSES`` and name it in ``loss.names``.

    A step first asks :meth:`match` and :meth:`count` for all its micro-batches, then adds up the
    counts over micro-batches and ranks, and then calls the loss. So neither changes the result.

    Parameters of a loss (a projection, say) are made by :meth:`add_parameters`; they are trained,
    sharded and saved with the student's.

    Attributes:
        name: what the loss is registered as.
        section, Settings: the section of the config and the dataclass of its keys, if it has any
            (:func:`tokenkit.config.key` declares them); losses may share one.
        needs: what it reads of the student's and the teacher's :class:`Outputs`, some of ``NEEDS``.
        needs_teacher: whether it reads the teacher's at all.
        chunk_kind: which alignment it reads; None for none.
        fixed_tokenizer: whether it reads tables that were made for one student's tokenizer.
        reaches_layers: whether its gradient passes the decoder.
        pair: what of both sides meets, as far as the batch alone tells it; None for nothing. It is
            called where batches are made (so it must pickle), lest a step has to ask the device how
            much was found. It returns a dataclass of tensors.
        streams: how many times it makes logits of its own, for figures of FLOPs.
    """

    name: ClassVar[str] = ""
    section: ClassVar[str] = ""
    Settings: ClassVar[type | None] = None
    needs: frozenset[str] = frozenset()
    needs_teacher: bool = True
    chunk_kind: str | None = None
    fixed_tokenizer: ClassVar[bool] = False
    reaches_layers: ClassVar[bool] = True
    pair: Callable[[Sequences, Sequences | None], Any] | None = None
    streams: ClassVar[int] = 0

    def __init__(
        self,
        config: Config,
        student_tok: ByteifiedTokenizer | None = None,
        teacher_tok: ByteifiedTokenizer | None = None,
    ) -> None:
        super().__init__()

    @classmethod
    def problems(cls, config: Config) -> Iterator[str]:
        """What cannot work with this config, a line each; asked before anything starts."""
        return iter(())

    def add_parameters(self, student_width: int, teacher_width: int) -> None:
        """Make parameters of its own, for hidden states of these widths."""

    def paired(self, student: Sequences, teacher: Sequences | None) -> Any:
        """What :attr:`pair` says of a batch: it came with it, or is found now."""
        found = student.pairs.get(self.name)
        return self.pair(student, teacher) if found is None else found

    def match(self, student: Sequences, teacher: Outputs | None) -> Any:
        """What :meth:`count` and the value are computed from: which tokens meet which.

        Asked once a micro-batch, before the student runs.
        """
        return None

    def count(self, match: Any) -> Tensor:
        """This micro-batch's share of the denominator, 0-d fp32.

        A loss that needs more than one number of the whole batch returns a vector.
        """
        raise NotImplementedError

    # A loss whose count depends on the student overrides this; it costs a forward pass.
    counts_student: ClassVar[bool] = False

    def student_count(
        self, match: Any, student: Outputs, teacher: Outputs | None, count: Tensor
    ) -> Tensor:
        """What the student adds to the (already summed) ``count``, of the same shape."""
        raise NotImplementedError

    def forward(
        self, match: Any, student: Outputs, teacher: Outputs | None, count: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """This micro-batch's share of the loss and of its metrics, both divided by ``count``.

        ``count`` is the global count, so that shares add up to the loss of the whole batch; a 0-d
        count is at least 1.
        """
        raise NotImplementedError
