"""What accelerators and the links between them can do, by their makers' data sheets.

Peaks are dense ones: the doubled figures for sparse matrices mean nothing here.
"""

from __future__ import annotations

from dataclasses import dataclass

from tokenkit.errors import ConfigError
from tokenkit.registry import did_you_mean

GIB = 2**30


@dataclass(frozen=True)
class Card:
    """One accelerator.

    Attributes:
        name: as ``tokenkit plan --device`` spells it.
        bfloat16, tf32, float32: peak FLOP/s of dense matmuls.
        memory: bytes that a process can use.
        bandwidth: bytes a second of its memory.
        link: bytes a second to another card of its node, one direction.
        network: bytes a second to another node, one direction, a card's share.
    """

    name: str
    bfloat16: float
    tf32: float
    float32: float
    memory: float
    bandwidth: float
    link: float
    network: float
    per_node: int = 8

    def peak(self, dtype: str) -> float:
        """FLOP/s in a compute dtype; fp32 is computed as such, without TF32."""
        return self.bfloat16 if dtype == "bfloat16" else self.float32


# Network: one 400 Gbit/s adapter a card (200 for A100, 100 between cards without one of their own).
CARDS = {
    card.name: card
    for card in (
        Card("a100-40gb", 312e12, 156e12, 19.5e12, 39 * GIB, 1.55e12, 300e9, 25e9),
        Card("a100", 312e12, 156e12, 19.5e12, 79 * GIB, 2.0e12, 300e9, 25e9),
        Card("h100", 989e12, 494e12, 67e12, 79 * GIB, 3.35e12, 450e9, 50e9),
        Card("h100-pcie", 756e12, 378e12, 51e12, 79 * GIB, 2.0e12, 64e9, 25e9),
        Card("h100-nvl", 835e12, 417e12, 60e12, 93 * GIB, 3.9e12, 300e9, 25e9),
        Card("h200", 989e12, 494e12, 67e12, 139 * GIB, 4.8e12, 450e9, 50e9),
        Card("b200", 2250e12, 1125e12, 75e12, 178 * GIB, 7.7e12, 900e9, 50e9),
        Card("l40s", 362e12, 183e12, 91.6e12, 44 * GIB, 0.86e12, 32e9, 12.5e9),
        Card("rtx4090", 165e12, 82.6e12, 82.6e12, 23 * GIB, 1.0e12, 25e9, 12.5e9),
        Card("mi300x", 1307e12, 654e12, 163e12, 191 * GIB, 5.3e12, 448e9, 50e9),
    )
}
# What drivers call them: the first row whose words all occur.
NAMES = (
    (("H100", "NVL"), "h100-nvl"),
    (("H100", "PCIE"), "h100-pcie"),
    (("H100",), "h100"),
    (("H200",), "h200"),
    (("B200",), "b200"),
    (("A100", "40GB"), "a100-40gb"),
    (("A100",), "a100"),
    (("L40S",), "l40s"),
    (("RTX 4090",), "rtx4090"),
    (("MI300X",), "mi300x"),
)


def card_called(name: str) -> Card | None:
    """The card that a driver calls ``name`` ("NVIDIA H100 80GB HBM3"); None if it is not known."""
    upper = name.upper()
    for words, key in NAMES:
        if all(word in upper for word in words):
            return CARDS[key]
    return None


def card_named(name: str) -> Card:
    """The card of the table.

    Raises:
        ConfigError: if there is none of this name.
    """
    if name.lower() not in CARDS:
        known = [*CARDS, "cpu"]
        raise ConfigError(
            f"--device '{name}': unknown{did_you_mean(name, known)} (known: {', '.join(known)})"
        )
    return CARDS[name.lower()]
