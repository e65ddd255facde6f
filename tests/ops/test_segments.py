"""Segment operations against loops over rows."""

from __future__ import annotations

import numpy as np
import torch

from tokenkit.ops.segments import first_run_end, segment_sum

IDS = torch.tensor(
    [
        [-1, 0, 0, 2, 2, -1, 2, 1],  # 2 comes back after a gap, ids need not ascend
        [0, 0, 0, 0, 0, 0, 0, 0],
        [-1, -1, -1, -1, -1, -1, -1, 3],
        [7, 5, -1, 5, 6, 6, -1, -1],  # ids beyond the room are dropped
    ]
)


def test_segment_sum():
    values = torch.randn(IDS.shape, requires_grad=True)
    ours = segment_sum(values, IDS, 4)
    expected = torch.stack([(values * (IDS == c)).sum(1) for c in range(4)], dim=1)
    torch.testing.assert_close(ours, expected)
    factors = torch.randn(4, 4)
    ours, theirs = (torch.autograd.grad((factors * s).sum(), values) for s in (ours, expected))
    torch.testing.assert_close(ours, theirs)


def test_int32_ids():
    values = torch.ones(IDS.shape)
    torch.testing.assert_close(segment_sum(values, IDS.int(), 9), segment_sum(values, IDS, 9))
    assert torch.equal(first_run_end(IDS.int(), 9), first_run_end(IDS, 9))


def test_first_run_end():
    expected = np.zeros((4, 8), dtype=int)
    for row, ids in enumerate(IDS.tolist()):
        for c in range(8):
            if c in ids:
                end = ids.index(c)
                while end + 1 < len(ids) and ids[end + 1] == c:
                    end += 1
                expected[row, c] = end
    assert first_run_end(IDS, 8).tolist() == expected.tolist()
    assert first_run_end(IDS, 4).tolist() == expected[:, :4].tolist()
