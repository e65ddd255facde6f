"""How a model generates, in another tokenizer's ids: its generation config, translated."""

from __future__ import annotations

from transformers import GenerationConfig

from tokenkit.models.source import SourceModel, saved_generation
from tokenkit.tokenizers import ByteifiedTokenizer
from tokenkit.tokenizers.families import EOT
from tokenkit.tokenizers.translation import IdTranslation

# Keys that hold ids without saying so in their names
_ID_LISTS = ("suppress_tokens", "begin_suppress_tokens")


def translated_generation(
    source: SourceModel, source_tok: ByteifiedTokenizer, target_tok: ByteifiedTokenizer
) -> GenerationConfig:
    """The source's generation config for a model that reads the target's ids.

    Generation ends where the source's did, and at the target's EOS and end of turn.
    """
    values = saved_generation(source.folder)
    translate = IdTranslation(source_tok, target_tok)
    for key, value in list(values.items()):
        if key.endswith("_token_id") or key in _ID_LISTS:
            values[key] = translate.of(value)
        elif key == "bad_words_ids" and value:
            values[key] = [translate.of(ids) for ids in value]
    ends = values.get("eos_token_id", translate.of(source.hf_config.eos_token_id))
    ends = ends if isinstance(ends, list) else [ends]
    turn = target_tok.marker_ids[EOT]
    ends += [target_tok.eos_id, None if turn is None else int(turn[0])]
    values["eos_token_id"] = [i for i in dict.fromkeys(ends) if i is not None]
    values["pad_token_id"] = target_tok.pad_id
    values["bos_token_id"] = target_tok.bos_id
    return GenerationConfig(**values)
