"""Weights that others published, under our names: from dictionaries of tensors to dictionaries of tensors.

A table's rows are tried in order; in each row stands what a name looks like there, and what it is here. What neither
has a row nor is told below is the same on both sides. Axes of length 1 come and go: a matrix is a convolution one wide.
"""

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from cisray.errors import InputError

NameTable = Sequence[tuple[str, str]]

# A block of the transformer, which borzoi-pytorch has from enformer-pytorch.
_BLOCK: NameTable = (
    (r"^transformer\.(\d+)\.0\.fn\.0\.", r"context.blocks.\1.norm."),
    (r"^transformer\.(\d+)\.0\.fn\.1\.to_q\.", r"context.blocks.\1.attention.query."),
    (r"^transformer\.(\d+)\.0\.fn\.1\.to_k\.", r"context.blocks.\1.attention.key."),
    (r"^transformer\.(\d+)\.0\.fn\.1\.to_v\.", r"context.blocks.\1.attention.value."),
    (r"^transformer\.(\d+)\.0\.fn\.1\.to_out\.", r"context.blocks.\1.attention.out."),
    (r"^transformer\.(\d+)\.0\.fn\.1\.to_rel_k\.", r"context.blocks.\1.attention.relative_key."),
    (r"^transformer\.(\d+)\.0\.fn\.1\.rel_content_bias$", r"context.blocks.\1.attention.content_bias"),
    (r"^transformer\.(\d+)\.0\.fn\.1\.rel_pos_bias$", r"context.blocks.\1.attention.position_bias"),
    (r"^transformer\.(\d+)\.1\.fn\.", r"context.blocks.\1.mlp."),
)
ENFORMER_PYTORCH: NameTable = (
    # the trunk holds every layer a second time
    (r"^_trunk\.1\.", "stem."),
    (r"^_trunk\.2\.", "conv_tower."),
    (r"^_trunk\.4\.", "transformer."),
    (r"^_trunk\.6\.", "final_pointwise."),
    (r"^stem\.1\.fn\.", "local.stem.1.layers."),
    (r"^stem\.2\.to_attn_logits\.", "local.stem.2.logits."),
    (r"^stem\.", "local.stem."),
    (r"^conv_tower\.(\d+)\.1\.fn\.", r"local.tower.\1.1.layers."),
    (r"^conv_tower\.(\d+)\.2\.to_attn_logits\.", r"local.tower.\1.2.logits."),
    (r"^conv_tower\.", "local.tower."),
    *_BLOCK,
    (r"^final_pointwise\.1\.", "head.shared.0."),
    (r"^_heads\.(\w+)\.0\.", r"head.tracks.\1."),
)
BORZOI_PYTORCH: NameTable = (
    (r"\.norm\.", ".0."),
    (r"^(?!conv_dna|separable)(.+)\.conv_layer\.", r"\1.2."),
    (r"^conv_dna\.conv_layer\.", "local.stages.0.stem.0."),
    (r"^res_tower\.", "local.stages.0.tower."),
    (r"^unet1\.", "local.stages.1."),
    (r"^horizontal_conv(\d)\.", r"local.sides.\1."),
    *_BLOCK,
    (r"^context\.blocks\.", "context.transformer.blocks."),
    (r"^upsampling_unet1\.0\.", "context.steps.0.widen."),
    (r"^separable1\.conv_layer\.", "context.steps.0.mix."),
    (r"^upsampling_unet0\.0\.", "context.steps.1.widen."),
    (r"^separable0\.conv_layer\.", "context.steps.1.mix."),
    (r"^final_joined_convs\.0\.", "head.shared.0."),
    (r"^(\w+)_head\.", r"head.tracks.\1."),
)


def from_enformer_pytorch(weights: Mapping[str, Tensor], *, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights of an enformer-pytorch network to those of ours; `like` is our network's state dict."""
    return _renamed(weights, ENFORMER_PYTORCH, like=like)


def from_borzoi_pytorch(weights: Mapping[str, Tensor], *, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights of a borzoi-pytorch network to those of ours; `like` is our network's state dict."""
    return _renamed(weights, BORZOI_PYTORCH, like=like)


def heads_in(weights: Mapping[str, Tensor], names: NameTable) -> dict[str, int]:
    """Return the heads that published weights hold and the number of tracks of each."""
    found = {}
    for name, weight in weights.items():
        head = re.fullmatch(r"head\.tracks\.(\w+)\.weight", our_name(name, names))
        if head:
            found[head[1]] = len(weight)
    return found


def our_name(name: str, names: NameTable) -> str:
    """Return what a weight is called here."""
    for pattern, ours in names:
        name = re.sub(pattern, ours, name)
    return name


def _renamed(weights: Mapping[str, Tensor], names: NameTable, *, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename all weights and give them our shapes; raise one InputError that tells everything that does not fit."""
    renamed: dict[str, Tensor] = {}
    wrong = []
    for name, weight in weights.items():
        ours = our_name(name, names)
        if ours not in like:
            wrong.append(f"{name} has no place here")
        elif [size for size in weight.shape if size != 1] != [size for size in like[ours].shape if size != 1]:
            wrong.append(f"{name} is {list(weight.shape)} and {ours} is {list(like[ours].shape)}")
        elif ours in renamed and not torch.equal(renamed[ours], weight.reshape(like[ours].shape)):
            wrong.append(f"{name} differs from another weight that is {ours} too")
        else:
            renamed[ours] = weight.reshape(like[ours].shape)
    told = {our_name(name, names) for name in weights}
    for ours in like:
        if ours not in told and ours.endswith("num_batches_tracked"):
            renamed[ours] = torch.zeros_like(like[ours])  # a counter that nothing reads, and some files leave out
        elif ours not in told:
            wrong.append(f"nothing is {ours}")
    if wrong:
        more = f"; and {len(wrong) - 8} more" if len(wrong) > 8 else ""
        raise InputError(
            f"these weights do not fit the network: {'; '.join(wrong[:8])}{more}; "
            "build it with the sizes and the heads that the weights were made with"
        )
    return renamed
