"""A Hugging Face causal language model, split into backbone and vocabulary.

Models are built with parameters on the meta device, parallelised, materialised and only then
filled, so that no rank ever holds more than its part (plus one tensor at a time).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModel

from tokenkit.errors import ModelError
from tokenkit.models.architectures import Architecture, embedding_scale
from tokenkit.models.attention import attend_causally
from tokenkit.models.capture import capture
from tokenkit.models.outputs import Outputs
from tokenkit.models.source import SourceModel, open_source_model
from tokenkit.models.vocabulary.expanded import ExpandedVocabulary
from tokenkit.models.vocabulary.table import Vocabulary
from tokenkit.models.weights import load_backbone
from tokenkit.ops.linear_scores import Scores

if TYPE_CHECKING:
    from tokenkit.batch import Sequences
    from tokenkit.tokenizers.sampling.token_forms import TokenForms


class CausalLM(nn.Module):
    """Backbone and vocabulary behind one ``forward``, the unit that parallelism wraps."""

    def __init__(
        self, backbone: nn.Module, vocabulary: Vocabulary, architecture: Architecture
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.vocabulary = vocabulary
        self.architecture = architecture
        self.losses = nn.ModuleDict()
        # All of a projection's features, and all tokens of what is between layers; a parallelism
        # that splits them says how, and what their number must be a multiple of.
        self.join_features: Callable[[Tensor], Tensor] = lambda features: features
        self.join_tokens: Callable[[Tensor], Tensor] = lambda states: states
        self.token_multiple = 1
        # How embeddings come to be read, and who scores: by default, all that is here, here.
        self.arrange: Callable[[Tensor, Callable[..., Tensor]], Tensor] = lambda x, read: read(x)
        self.scores: Callable[..., Scores] = lambda vocabulary, *given: vocabulary.scores(*given)
        # Whether sharded parameters are gathered, and gradients reduced, once a step.
        self.accumulates_unsharded = False

    def adopt(self, losses: Mapping[str, nn.Module]) -> dict[str, Tensor]:
        """Take in modules of losses, so that they are sharded, trained and saved with the model.

        Returns:
            Their parameters' values by name, to be copied back once the model is materialised.
        """
        self.losses.update(losses)
        drawn = {name: p.detach().clone() for name, p in self.losses.named_parameters()}
        self.losses.to("meta")
        return drawn

    @property
    def layers(self) -> nn.ModuleList:
        return getattr(self.backbone, self.architecture.layers)

    def opened(self, forms: TokenForms | None = None) -> AbstractContextManager[None]:
        """Around what is done in one step; see :meth:`Vocabulary.step`."""
        return self.vocabulary.step(forms, self.predict_embeddings)

    def predict_embeddings(self, ids: Tensor, mask: Tensor, copied: Tensor) -> Tensor:
        """See :meth:`HypernetVocabulary.predict`; through the root, as FSDP wants."""
        return self.vocabulary.predict(ids, mask, copied)

    def source_embeddings(self, ids: Tensor) -> Tensor:
        """See :meth:`HypernetVocabulary.embeddings_of`."""
        return self.vocabulary.embeddings_of(ids)

    def run_backbone(self, embeddings: Tensor) -> Tensor:
        """Last hidden states ``[B, T, D]`` of embeddings ``[B, T, D]``.

        Rows must be padded on the right: under causal attention padding then changes nothing,
        and no mask is needed.
        """
        return self.arrange(embeddings, self._read)

    def _read(self, embeddings: Tensor, position_ids: Tensor | None = None) -> Tensor:
        length = embeddings.shape[1]
        padded = F.pad(embeddings, (0, 0, 0, -length % self.token_multiple))
        places = {} if position_ids is None else {"position_ids": position_ids}
        hidden = self.backbone(inputs_embeds=padded, use_cache=False, **places).last_hidden_state
        return hidden[:, :length]

    def forward(
        self,
        seq: Sequences,
        needs: Collection[str] = ("label", "boundary"),
        keep_directions: bool = False,
        vocabulary: Vocabulary | None = None,
    ) -> Outputs:
        """What is needed of a forward pass.

        Args:
            needs: some of :data:`~tokenkit.models.outputs.NEEDS`.
            keep_directions: of the scores, for :meth:`Outputs.hidden_gradient`.
            vocabulary: instead of the model's own (self-distillation runs the source vocabulary).
        """
        vocabulary = vocabulary or self.vocabulary
        embeddings = vocabulary.embed(seq)
        with capture(self, needs, seq.ids.shape[1]) as captured:
            hidden = self.run_backbone(embeddings)
        outputs = Outputs(
            seq,
            embeddings=embeddings if "embeddings" in needs else None,
            hidden=hidden,
            qkv=captured.qkv(len(self.architecture.attention_inputs)),
            vocabulary=vocabulary,
        )
        if "hidden_states" in needs:
            outputs = outputs._replace(hidden_states=(embeddings, *captured.layers, hidden))
        if "label" in needs or "boundary" in needs:
            scores = self.scores(vocabulary, hidden, seq, "boundary" in needs, keep_directions)
            outputs = outputs.with_scores(scores)
        return outputs


@contextmanager
def parameters_on_meta() -> Iterator[None]:
    """Modules built inside have parameters on the meta device but real buffers (rotary tables)."""
    register = nn.Module.register_parameter

    def register_on_meta(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None and not parameter.is_meta:
            parameter = nn.Parameter(parameter.to("meta"), requires_grad=parameter.requires_grad)
        register(module, name, parameter)

    nn.Module.register_parameter = register_on_meta
    try:
        yield
    finally:
        nn.Module.register_parameter = register


def build_vocabulary(
    source: SourceModel, rows: int, *, tied: bool, valid_vocab: int, dtype: torch.dtype
) -> Vocabulary:
    """A vocabulary on the meta device with the quirks of the source's family."""
    config = source.hf_config
    options: dict[str, Any] = {
        "valid_vocab": valid_vocab,
        "embed_scale": embedding_scale(config),
        "softcap": getattr(config, "final_logit_softcapping", None),
        "device": "meta",
        "dtype": dtype,
    }
    shape = rows, config.hidden_size
    if source.expansion is not None:
        return ExpandedVocabulary(
            *shape, expansion=source.expansion, subword_dtype=dtype, **options
        )
    return Vocabulary(*shape, tied=tied, **options)


def build_causal_lm(
    source: SourceModel, rows: int, *, tied: bool, valid_vocab: int, dtype: torch.dtype
) -> CausalLM:
    """A causal LM with parameters on the meta device in ``dtype``; see :func:`fill`."""
    options = {"dtype": dtype, "trust_remote_code": source.trust_remote_code}
    try:
        with parameters_on_meta():
            backbone = AutoModel.from_config(copy.deepcopy(source.hf_config), **options)
    except (ValueError, ArithmeticError, LookupError, RuntimeError, ImportError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ModelError(f"no model can be built of '{source.folder}' ({reason})") from error
    attend_causally(backbone, source.attn_implementation)
    setattr(backbone, source.architecture.embedding, None)
    vocabulary = build_vocabulary(source, rows, tied=tied, valid_vocab=valid_vocab, dtype=dtype)
    # Dropout would make teacher and student incomparable.
    return CausalLM(backbone, vocabulary, source.architecture).eval()


def materialize(module: nn.Module, device: torch.device) -> None:
    """Give meta parameters (uninitialised) memory on ``device``; buffers keep their values."""
    buffers = {name: buffer.to(device) for name, buffer in module.named_buffers()}
    module.to_empty(device=device)
    for name, buffer in module.named_buffers():
        buffer.copy_(buffers[name])


@torch.no_grad()
def fill(
    model: CausalLM,
    source: SourceModel,
    matrices: tuple[Tensor, Tensor | None],
    device: torch.device,
) -> None:
    """Materialise a built (and parallelised) model and load backbone and vocabulary."""
    materialize(model, device)
    load_backbone(model.backbone, source.weights, source.architecture.prefix)
    model.vocabulary.fill(*matrices)


def load_causal_lm(
    model: str, device: torch.device, dtype: torch.dtype, valid_vocab: int | None = None
) -> CausalLM:
    """A whole model on one device, for evaluation.

    Args:
        valid_vocab: size of the model's tokenizer: rows from there on belong to no token and get
            no probability. Default, and at most, all rows.
    """
    source = open_source_model(model)
    inputs, outputs = source.matrices()
    rows = len(inputs)
    valid = rows if valid_vocab is None else min(valid_vocab, rows)
    made = build_causal_lm(source, rows, tied=source.tied, valid_vocab=valid, dtype=dtype)
    fill(made, source, (inputs, outputs), device)
    return made.requires_grad_(False)
