"""Byte-level causal language models that read, beside each byte, the subword that ends with it.

The embedding of a position is that of its byte plus that of the longest token of the model's old,
subword vocabulary whose bytes are the last ones read (Minixhofer et al., "Universal
Cross-Tokenizer Distillation via Approximate Likelihood Matching", 2025). All else is the family's
own class. ``generate`` works as ever. Who calls the model with a cache may give the new ids alone;
who reorders or edits a cache by hand gives ``subword_ids``, made by ``expand`` from all ids.

Written by tokenkit; needs torch, numpy and transformers 5 only.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from .suffix_trie import SuffixTrie

Base: Any = object  # the family's class stands behind it among the bases


class Expanded(Base):
    """What is added to a family's causal language model.

    The config says ``subword_rows`` of the table of subwords, ``trie_slots`` of the trie that
    finds them, and ``longest_subword`` in bytes. Table and trie lie with the weights.
    """

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        own = self.get_input_embeddings()
        options = {}
        if hasattr(own, "scalar_embed_scale"):  # Gemma
            options = {"padding_idx": None, "embed_scale": own.scalar_embed_scale}
        self.subwords = type(own)(config.subword_rows, config.hidden_size, **options)
        slots, symbols = config.trie_slots, config.vocab_size + 1
        self.register_buffer("trie_keys", torch.full((slots,), -1, dtype=torch.int64))
        self.register_buffer("trie_values", torch.zeros(symbols + slots, dtype=torch.int32))
        self._trie: SuffixTrie | None = None
        self.post_init()

    @property
    def trie(self) -> SuffixTrie:
        """On the CPU, made of the buffers when first needed."""
        if self._trie is None:
            self._trie = SuffixTrie(self.trie_keys.cpu().numpy(), self.trie_values.cpu().numpy())
        return self._trie

    def expand(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, last: int | None = None
    ) -> Tensor:
        """Ids ``[B, T]`` of the longest subwords that end at each place of ``input_ids``.

        Args:
            input_ids: ``[B, T]``, from each row's first id on.
            attention_mask: ``[B, T]``, 0 for padding, which no subword crosses.
            last: only of the last so many places.
        """
        return self._expand(self._symbols(input_ids, attention_mask), last, input_ids.device)

    def _symbols(self, ids: Tensor, attention_mask: Tensor | None) -> np.ndarray:
        """Ids of the trie: padding, and ids that were added later, are in no subword."""
        outside = self.trie.symbols - 1
        symbols = ids.cpu().numpy()
        kept = symbols < outside
        if attention_mask is not None and attention_mask.ndim == 2:
            kept &= attention_mask[:, -ids.shape[1] :].bool().cpu().numpy()
        return np.where(kept, symbols, outside)

    def _expand(self, symbols: np.ndarray, last: int | None, device: torch.device) -> Tensor:
        if last is not None:
            symbols = symbols[:, -(last + self.config.longest_subword - 1) :]
        found = self.trie.longest(symbols, np.zeros(symbols.shape, bool), last)
        return torch.from_numpy(found).long().to(device)

    # A cache remembers the newest symbols of its rows, which the next ids may continue.

    def _remember(self, cache: Any, length: int, symbols: np.ndarray) -> None:
        if cache is not None:
            cache.newest_symbols = (length, symbols[:, -self.config.longest_subword :])

    @staticmethod
    def _remembered(cache: Any, rows: int) -> np.ndarray:
        """Newest symbols ``[B, n]`` of what a cache holds; n = 0 where it is empty."""
        length = 0 if cache is None else int(cache.get_seq_length())
        if length == 0:
            return np.zeros((rows, 0), np.int64)
        known, symbols = getattr(cache, "newest_symbols", (-1, None))
        if known != length or len(symbols) != rows:
            raise ValueError(
                "past_key_values was filled, cut or reordered elsewhere, so the bytes before "
                "input_ids are not known: give subword_ids = model.expand(all ids, mask, last=new)"
            )
        return symbols

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        subword_ids: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """The family's own forward pass on bytes and subwords.

        Args:
            subword_ids: ``[B, T]`` of ``input_ids``; default :meth:`expand` of them, and of what
                ``past_key_values`` has seen before.
        """
        symbols = None
        if inputs_embeds is None and subword_ids is None:
            before = self._remembered(past_key_values, len(input_ids))
            symbols = np.concatenate([before, self._symbols(input_ids, attention_mask)], 1)
            subword_ids = self._expand(symbols, input_ids.shape[1], input_ids.device)
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids) + self.subwords(subword_ids)
        outputs = super().forward(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            **kwargs,
        )
        if symbols is not None:
            cache = getattr(outputs, "past_key_values", past_key_values)
            length = 0 if cache is None else int(cache.get_seq_length())
            self._remember(cache, length, symbols)
        return outputs

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        next_sequence_length: int | None = None,
        past_key_values: Any = None,
        attention_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        inputs = super().prepare_inputs_for_generation(
            input_ids,
            next_sequence_length=next_sequence_length,
            past_key_values=past_key_values,
            attention_mask=attention_mask,
            **kwargs,
        )
        new, past = inputs.get("input_ids"), 0
        if past_key_values is not None:
            past = int(past_key_values.get_seq_length())
        # Some callers give the newest ids only; then the cache has to know what was before.
        if new is not None and input_ids.shape[1] == past + new.shape[1]:
            symbols = self._symbols(input_ids, attention_mask)
            inputs["subword_ids"] = self._expand(symbols, new.shape[1], new.device)
            self._remember(past_key_values, input_ids.shape[1], symbols)
        return inputs


class ExpandedLlamaConfig(LlamaConfig):
    model_type = "expanded_llama"


class ExpandedLlamaForCausalLM(Expanded, LlamaForCausalLM):
    config_class = ExpandedLlamaConfig


class ExpandedQwen2Config(Qwen2Config):
    model_type = "expanded_qwen2"


class ExpandedQwen2ForCausalLM(Expanded, Qwen2ForCausalLM):
    config_class = ExpandedQwen2Config


class ExpandedQwen3Config(Qwen3Config):
    model_type = "expanded_qwen3"


class ExpandedQwen3ForCausalLM(Expanded, Qwen3ForCausalLM):
    config_class = ExpandedQwen3Config


class ExpandedMistralConfig(MistralConfig):
    model_type = "expanded_mistral"


class ExpandedMistralForCausalLM(Expanded, MistralForCausalLM):
    config_class = ExpandedMistralConfig


class ExpandedGemma2Config(Gemma2Config):
    model_type = "expanded_gemma2"


class ExpandedGemma2ForCausalLM(Expanded, Gemma2ForCausalLM):
    config_class = ExpandedGemma2Config


class ExpandedGemma3Config(Gemma3TextConfig):
    model_type = "expanded_gemma3_text"


class ExpandedGemma3ForCausalLM(Expanded, Gemma3ForCausalLM):
    config_class = ExpandedGemma3Config


class ExpandedPhi3Config(Phi3Config):
    model_type = "expanded_phi3"


class ExpandedPhi3ForCausalLM(Expanded, Phi3ForCausalLM):
    config_class = ExpandedPhi3Config


class ExpandedGPT2Config(GPT2Config):
    model_type = "expanded_gpt2"


class ExpandedGPT2LMHeadModel(Expanded, GPT2LMHeadModel):
    config_class = ExpandedGPT2Config
