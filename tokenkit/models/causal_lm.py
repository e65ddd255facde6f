"""A Hugging Face causal language model, split into backbone and vocabulary.

Models are built with parameters on the meta device, parallelised, materialised and only then
filled, so that no rank ever holds more than its part (plus one tensor at a time).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForCausalLM

from tokenkit.errors import ModelError
from tokenkit.log import logger
from tokenkit.models.architectures import Architecture, architecture_of, embedding_scale
from tokenkit.models.attention import attend_without_masks
from tokenkit.models.capture import capture
from tokenkit.models.checks import check_config, check_matrices, read_config
from tokenkit.models.outputs import Outputs
from tokenkit.models.vocabulary.table import Vocabulary
from tokenkit.models.weights import (
    SafetensorsSource,
    load_backbone,
    resolve_model_folder,
    vocabulary_matrices,
)
from tokenkit.ops.copy_full import copy_full

if TYPE_CHECKING:
    from tokenkit.batch import Sequences
    from tokenkit.tokenizers.sampling.token_forms import TokenForms


@dataclass
class SourceModel:
    """A model as it lies on disk, or as freshly drawn: config, architecture, weights by name."""

    hf_config: Any
    architecture: Architecture
    weights: Mapping[str, Tensor]
    tied: bool
    trust_remote_code: bool = False
    folder: Path | None = None

    @property
    def width(self) -> int:
        """Of hidden states, D."""
        return self.hf_config.hidden_size

    def matrices(self) -> tuple[Tensor, Tensor | None]:
        """Input and output matrix ``[V, D]`` (output None if tied)."""
        parts = self.architecture
        found = vocabulary_matrices(self.weights, parts.prefix, parts.embedding, self.tied)
        embedding = f"{parts.prefix}{parts.embedding}"
        check_matrices(*found, self.width, embedding, str(self.folder))
        return found


def open_source_model(
    model: str,
    *,
    init: str = "pretrained",
    vocab_rows: int | None = None,
    seed: int = 0,
    attn_implementation: str = "",
    trust_remote_code: bool = False,
) -> SourceModel:
    """Open a model folder or hub id.

    Args:
        init: "pretrained" reads safetensors; "random" draws fresh weights from config.json
            alone, with ``vocab_rows`` rows, the same on every rank.

    Raises:
        ModelError: if it is missing, damaged, or of an unsupported family.
    """
    folder = resolve_model_folder(model)
    hf_config = read_config(folder, trust_remote_code)
    architecture = architecture_of(hf_config)
    check_config(hf_config, model)
    if attn_implementation:
        hf_config._attn_implementation = attn_implementation
    tied = bool(hf_config.tie_word_embeddings)
    if init == "random":
        if vocab_rows is not None:
            hf_config.vocab_size = vocab_rows
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            fresh = AutoModelForCausalLM.from_config(hf_config, dtype=torch.float32)
        weights: Mapping[str, Tensor] = fresh.state_dict()
    else:
        weights = SafetensorsSource(folder)
    return SourceModel(hf_config, architecture, weights, tied, trust_remote_code, Path(folder))


def fit_rows(matrix: Tensor, rows: int) -> Tensor:
    """Cut a matrix to ``rows`` rows, or extend it by rows equal to its mean."""
    if len(matrix) >= rows:
        return matrix[:rows]
    mean = matrix.float().mean(0, keepdim=True).to(matrix.dtype)
    return torch.cat([matrix, mean.expand(rows - len(matrix), -1)])


def reconcile_rows(source: SourceModel, tokenizer_rows: int, name: str) -> int:
    """Rows a vocabulary needs so that every id of the tokenizer has one; says what differs."""
    matrix_rows = len(source.matrices()[0])
    config_rows = source.hf_config.vocab_size
    if matrix_rows != config_rows:
        logger.warning(
            f"{name}: config.vocab_size is {config_rows} but the matrix has {matrix_rows} rows; "
            f"using {matrix_rows}"
        )
    if tokenizer_rows > matrix_rows:
        logger.warning(
            f"{name}: the tokenizer has {tokenizer_rows} ids but the matrix {matrix_rows} rows; "
            f"the {tokenizer_rows - matrix_rows} missing rows start at the mean"
        )
    elif tokenizer_rows < matrix_rows:
        logger.info(
            f"{name}: {matrix_rows - tokenizer_rows} of {matrix_rows} rows belong to no token"
        )
    return max(matrix_rows, tokenizer_rows)


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
        # All of a projection's features; a parallelism that splits them says how.
        self.join_features: Callable[[Tensor], Tensor] = lambda features: features

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
        return self.backbone(inputs_embeds=embeddings, use_cache=False).last_hidden_state

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
        embeddings = vocabulary.embed(seq.ids)
        with capture(self, needs) as captured:
            hidden = self.run_backbone(embeddings)
        outputs = Outputs(
            seq,
            embeddings=embeddings if "embeddings" in needs else None,
            hidden=hidden,
            qkv=captured.qkv(len(self.architecture.attention_inputs)),
            vocabulary=vocabulary,
        )
        if "hidden_states" in needs:
            outputs = outputs._replace(hidden_states=(embeddings, *captured.layers[:-1], hidden))
        if "label" in needs or "boundary" in needs:
            scores = vocabulary.scores(hidden, seq, "boundary" in needs, keep_directions)
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
    return Vocabulary(
        rows,
        config.hidden_size,
        tied=tied,
        valid_vocab=valid_vocab,
        embed_scale=embedding_scale(config),
        softcap=getattr(config, "final_logit_softcapping", None),
        device="meta",
        dtype=dtype,
    )


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
    attend_without_masks(backbone)
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
def fill_vocabulary(vocabulary: Vocabulary, inputs: Tensor, outputs: Tensor | None) -> None:
    """Copy matrices ``[rows, D]`` into a materialised vocabulary; missing rows become zero."""

    def fill_matrix(parameter: Tensor, matrix: Tensor) -> None:
        missing = parameter.shape[0] - len(matrix)
        if missing:
            matrix = torch.cat([matrix, matrix.new_zeros(missing, matrix.shape[1])])
        copy_full(parameter, matrix)

    fill_matrix(vocabulary.input, inputs)
    if vocabulary.output is not None:
        fill_matrix(vocabulary.output, inputs if outputs is None else outputs)


def fill(
    model: CausalLM,
    source: SourceModel,
    matrices: tuple[Tensor, Tensor | None],
    device: torch.device,
) -> None:
    """Materialise a built (and parallelised) model and load backbone and vocabulary."""
    materialize(model, device)
    load_backbone(model.backbone, source.weights, source.architecture.prefix)
    fill_vocabulary(model.vocabulary, *matrices)


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
