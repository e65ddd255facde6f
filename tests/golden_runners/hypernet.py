"""Golden cases of the hypernetwork."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from tests.golden_runners.losses import check, load_arrays
from tokenkit.config.schema_hypernet import HypernetConfig
from tokenkit.models.hypernet import Hypernet, moments, scale_to

# Where the reference keeps what we keep elsewhere; Dense kernels are [in, out].
NAMES = {
    "layers_": "layers.", "self_attention": "attention",
    "post_attention_layernorm": "attention_norm", "post_mlp_layernorm": "norm",
    "mlp.": "", "kernel": "weight", "scale": "weight",
    "position_embeddings.embedding": "positions.weight", "output_linear": "output",
    "input_linear": "input", "transformer.": "",
}  # fmt: skip


def load_parameters(net: Hypernet, arrays: dict[str, Tensor]) -> None:
    """Copy the reference's parameters; every one of ours must get a value."""
    seen = set()
    for name, value in arrays.items():
        if not name.startswith("param.params.") or "rescaler" in name:
            continue
        name = name.removeprefix("param.params.")
        ours = name
        for theirs, mine in NAMES.items():
            ours = ours.replace(theirs, mine)
        if name.endswith("kernel"):
            value = value.T
        net.networks[0].get_parameter(ours).data.copy_(value)
        seen.add(f"networks.0.{ours}")
    missing = {name for name, _ in net.named_parameters() if "rescaler" not in name} - seen
    assert not missing, missing


def load_rescalers(net: Hypernet, arrays: dict[str, Tensor]) -> None:
    shape = (net.num_embeddings, net.hidden_size)
    for kind in ("in_rescaler", "out_rescaler"):
        module = net.get_submodule(kind)
        for ours, theirs in (("weight", "w"), ("bias", "b")):
            value = arrays[f"param.params.{kind}.{theirs}"].reshape(-1, net.hidden_size)
            module.get_buffer(ours).copy_(value.expand(shape))


def check_rescalers(net: Hypernet, arrays: dict[str, Tensor], case: dict) -> None:
    """Those that follow from the statistics of the embeddings.

    The reference computes them but stores them where its forward pass does not look, so its
    output statistics are those of a network that does not rescale.
    """
    embeddings = arrays["in.embeddings"]
    raw = net(embeddings, torch.ones_like(arrays["in.mask"]).bool())
    found = dict(zip("wb", scale_to(moments(raw), moments(embeddings[:, 0])), strict=True))
    net.fit_rescalers(embeddings)
    module = net.in_rescaler
    for name, ours in (("w", module.weight), ("b", module.bias)):
        expected = arrays[f"init.in_rescaler.{name}"]
        check(case, f"in_rescaler.{name}", ours.view(expected.shape), expected)
        if net.config.residual:  # else the reference divides by a standard deviation of zero
            expected = arrays[f"init.out_rescaler.{name}"]
            check(case, f"out_rescaler.{name}", found[name][None], expected)


def run_hypernet(folder: Path, case: dict) -> None:
    arrays = load_arrays(folder, case)
    args = dict(case["args"])
    size, n = args.pop("hidden_size"), args.pop("num_embeddings")
    length = args.pop("max_seq_length")
    # The reference's defaults where they are not ours
    settings = {"architecture": "transformer", "num_heads": 16, **args}
    config = HypernetConfig(max_surface_length=length, **settings)
    net = Hypernet(config, n, size).requires_grad_(False)
    embeddings, mask = arrays["in.embeddings"], arrays["in.mask"].bool()
    load_parameters(net, arrays)
    if config.architecture != "identity":
        load_rescalers(net, arrays)
    check(case, "predicted", net(embeddings, mask), arrays["out.predicted"])
    if "out.predicted_at_init" in arrays:
        for parameter in net.networks[0].output.parameters() if net.networks else ():
            parameter.zero_()  # where the reference starts
        check(case, "predicted_at_init", net(embeddings, mask), arrays["out.predicted_at_init"])
        if net.networks:
            check_rescalers(net, arrays, case)


RUNNERS = {"hypernet": run_hypernet}
