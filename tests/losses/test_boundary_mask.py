"""Which tokens are boundaries."""

from __future__ import annotations

import numpy as np
import torch

from tokenkit.config import config_from_dict
from tokenkit.losses import boundary_mask


class Tokenizer:
    """As much of a tokenizer as the mask asks for."""

    eos_id = 3

    def __len__(self):
        return 5

    def space_mask(self, mode):
        assert mode == "space+tab"
        return np.array([False, True, False, True, True])


def mask(mode):
    config = config_from_dict({"alm": {"mode": mode, "space_mask_mode": "space+tab"}})
    found = boundary_mask(Tokenizer(), config)
    assert found.dtype == torch.bool
    return found.tolist()


def test_spaces():
    expected = [False, True, False, True, True]
    assert mask("merge_by_space_prob+append_space") == mask("") == expected


def test_end_of_text_alone():
    assert mask("eos_as_space+append_space") == [False, False, False, True, False]
