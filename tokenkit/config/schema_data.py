"""``[data]`` and ``[chat]``: which texts, and how they are read."""

from __future__ import annotations

from dataclasses import dataclass

from tokenkit.config.key import key


@dataclass
class DataConfig:
    """Texts to train and validate on."""

    train: list[str] = key([], "local files or folders, or hf:dataset", path=True)
    weights: list[float] = key(
        [], "share of each source in the mixture (empty: by size)", minimum=0
    )
    validation: list[str] = key([], "sources for validation, written as in train", path=True)
    split: str = key("train", "split of hf: datasets")
    streaming: bool = key(False, "stream hf: datasets instead of downloading them first")
    text_field: str = key("text", "column of plain texts")
    messages_field: str = key(
        "messages", "column of conversations (with tools and chat_template_kwargs beside it)"
    )
    shuffle: bool = key(True, "shuffle the rows, anew in each epoch")
    shuffle_buffer: int = key(10000, "rows held for shuffling a stream", minimum=1)
    deal: str = key(
        "length",
        "how a step's rows come to ranks and micro-batches: those of like length together, which "
        "takes less padding, or in order; results are the same",
        choices=("length", "order"),
    )
    num_workers: int = key(
        0, "processes per rank that prepare batches (0: none)", minimum=0, maximum=256
    )
    pad_multiple: int = key(
        8, "pad rows to a multiple of this many tokens (or to the limit)", minimum=1, maximum=2**12
    )
    check: bool = key(
        True, "look at the rows before training, for at most a minute (not at streamed ones)"
    )
    on_bad_row: str = key(
        "error",
        "what a row does that cannot be used: end the run, or go uncounted but in the metrics",
        choices=("error", "skip"),
    )


@dataclass
class ChatConfig:
    """Conversations and prompts."""

    text_mode: str = key(
        "direct_encode",
        "how plain texts become sequences",
        choices=(
            "surround_instruct",
            "direct_encode",
            "direct_encode_no_force_eos",
            "direct_encode_no_force_bos",
            "direct_encode_no_force_bos_no_force_eos",
        ),
    )
    loss_on: str = key(
        "all", "tokens whose prediction counts", choices=("all", "assistant", "completion")
    )
    special_tokens: str = key(
        "text",
        "what special tokens and neutral markers are that a row's texts spell out: ordinary text, "
        "a reason to refuse the row, or these tokens",
        choices=("text", "refuse", "parse"),
    )
    date: str = key("2024-07-26", "day that chat templates take today for (empty: really today)")
