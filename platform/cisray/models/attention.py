"""Attention with relative positions: transformers that read bins, as Enformer and Borzoi have them.

The logits of positions i and j are (q_i + u) k_j + (q_i + v) r_(j - i): u and v are learned per head, and r is a
learned projection of fixed features of the distance (Transformer-XL, Dai et al. 2019).
"""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BLOCK_VALUES = 1 << 21
"""Logits that a block of queries has, over all heads and rows of a batch: 8 MB of float32."""


class RelativeAttention(nn.Module):
    """Multi-head attention over bins [B, N, C], with relative positions; the values' size is C / heads."""

    def __init__(
        self,
        channels: int,
        *,
        heads: int,
        key_size: int,
        num_features: int,
        dropout: float,
        position_dropout: float,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.key_size = key_size
        self.dropout = dropout
        self.query = nn.Linear(channels, heads * key_size, bias=False)
        self.key = nn.Linear(channels, heads * key_size, bias=False)
        self.value = nn.Linear(channels, channels, bias=False)
        self.relative_key = nn.Linear(num_features, heads * key_size, bias=False)
        self.content_bias = nn.Parameter(torch.empty(heads, 1, key_size))
        self.position_bias = nn.Parameter(torch.empty(heads, 1, key_size))
        self.position_dropout = nn.Dropout(position_dropout)
        self.out = nn.Linear(channels, channels)
        for layer in (self.query, self.key, self.value, self.relative_key):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        for bias in (self.content_bias, self.position_bias):
            nn.init.normal_(bias, std=math.sqrt(2 / heads))
        nn.init.zeros_(self.out.weight)  # each block starts as the identity, so that deep towers train
        nn.init.zeros_(self.out.bias)

    def forward(self, hidden: Tensor, features: Tensor) -> Tensor:
        """Mix `hidden` [B, N, C]; `features` of distances -N to N are [2 N + 1, F]."""
        query, key, value = (self._by_head(layer(hidden)) for layer in (self.query, self.key, self.value))
        query = query * self.key_size**-0.5
        relative_keys = self._by_head(self.relative_key(self.position_dropout(features)))  # [H, 2 N + 1, K]
        content, position = (query + bias.to(query.dtype) for bias in (self.content_bias, self.position_bias))
        if hidden.device.type == "cpu" and not (
            self.training or torch.is_grad_enabled() or torch.compiler.is_compiling()
        ):
            mixed = attend_in_blocks(content, position, key, value, relative_keys)
        else:
            mixed = F.scaled_dot_product_attention(
                content,
                key,
                value,
                attn_mask=relative_logits(position, relative_keys),
                dropout_p=self.dropout if self.training else 0.0,
                scale=1.0,
            )  # [B, H, N, V]
        return self.out(mixed.transpose(1, 2).flatten(2))

    def _by_head(self, hidden: Tensor) -> Tensor:
        """Split [..., N, H * K] into [..., H, N, K]."""
        return hidden.unflatten(-1, (self.heads, -1)).transpose(-3, -2)


def relative_logits(queries: Tensor, relative_keys: Tensor) -> Tensor:
    """Return what distances add to the logits, [B, H, N, N], of queries [B, H, N, K] and keys [H, 2 N + 1, K].

    Element (i, j) is query i times the key of distance j - i. In a row of 2 N + 1 distances from -N that is column
    N + j - i, which in memory lies 2 N further in each next row: all are read in place, and none is copied.
    """
    num_bins = queries.shape[-2]
    products = queries @ relative_keys.mT  # [B, H, N, 2 N + 1]
    return products.flatten(-2)[..., num_bins:].unflatten(-1, (num_bins, 2 * num_bins))[..., :num_bins]


def attend_in_blocks(content: Tensor, position: Tensor, key: Tensor, value: Tensor, relative_keys: Tensor) -> Tensor:
    """Attend from some queries at a time, whose logits stay in a processor's cache: [B, H, N, V].

    Takes queries [B, H, N, K] with either bias, keys and values of the same bins, and keys [H, 2 N + 1, K] of the
    distances from -N, of which some queries need little more than half.
    """
    num_bins = key.shape[-2]
    key, value, relative_keys = key.mT.contiguous(), value.contiguous(), relative_keys.mT.contiguous()
    rows = max(16, BLOCK_VALUES // (num_bins * content.shape[0] * content.shape[1]))
    mixed = []
    for start in range(0, num_bins, rows):
        stop = min(start + rows, num_bins)
        # the last of the queries sees the first bin at a distance of 1 - stop, the first sees the last at N - 1 - start
        near = relative_keys[..., num_bins + 1 - stop : 2 * num_bins - start]
        products = position[..., start:stop, :] @ near  # [B, H, rows, N + rows - 1]
        # in memory, each next query's first bin lies one distance less far on
        width = num_bins + stop - start - 1
        by_bin = products.flatten(-2)[..., stop - start - 1 :]
        by_bin = by_bin.as_strided((*by_bin.shape[:-1], stop - start, num_bins), (*by_bin.stride()[:-1], width - 1, 1))
        logits = content[..., start:stop, :] @ key
        mixed.append(logits.add_(by_bin).softmax(dim=-1) @ value)
    return torch.cat(mixed, dim=-2)


def two_sided(by_distance: Tensor) -> Tensor:
    """Turn features of distances 0 to N - 1, [N, F / 2], into those of -N to N, [2 N + 1, F].

    The second half of a row is the first with the distance's sign. No two of N bins lie N apart: those rows are zero.
    """
    aside = F.pad(by_distance[1:], (0, 0, 0, 1))  # distances 1 to N
    middle = by_distance[:1]
    upright = torch.cat([aside.flip(0), middle, aside])
    signed = torch.cat([-aside.flip(0), torch.zeros_like(middle), aside])
    return torch.cat([upright, signed], dim=1)


class TransformerBlock(nn.Module):
    """Attention, then a two-layer perceptron, each normed before and added to what came in: [B, N, C]."""

    def __init__(self, attention: RelativeAttention, channels: int, *, dropout: float, norm_eps: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=norm_eps)
        self.attention = attention
        self.dropout = nn.Dropout(dropout)
        self.mlp = nn.Sequential(
            nn.LayerNorm(channels, eps=norm_eps),
            nn.Linear(channels, 2 * channels),
            nn.Dropout(dropout),
            nn.ReLU(),
            nn.Linear(2 * channels, channels),
            nn.Dropout(dropout),
        )

    def forward(self, hidden: Tensor, features: Tensor) -> Tensor:
        """Add the block's changes to `hidden` [B, N, C]; `features` of distances are [2 N + 1, F]."""
        hidden = hidden + self.dropout(self.attention(self.norm(hidden), features))
        return hidden + self.mlp(hidden)


class Transformer(nn.Module):
    """Transformer blocks over bins, [B, C, N] to [B, C, N], for any number of bins.

    `features_of` takes N and returns features of the distances 0 to N - 1, float64 [N, F / 2]. They depend on no
    weight, so that one table serves all blocks and stays for the next batch of the same length.
    """

    def __init__(self, blocks: Sequence[TransformerBlock], features_of: Callable[[int], Tensor]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.features_of = features_of
        self._features: Tensor | None = None  # no buffer: a network moved from the meta device would keep it empty

    def forward(self, hidden: Tensor) -> Tensor:
        """Let all bins of `hidden` [B, C, N] see each other."""
        if not self.blocks:
            return hidden
        features = self._features_for(hidden)
        hidden = hidden.mT
        for block in self.blocks:
            hidden = block(hidden, features)
        return hidden.mT

    def _features_for(self, hidden: Tensor) -> Tensor:
        """Return features of distances [2 N + 1, F] on the device and in the precision of the weights."""
        num_bins = hidden.shape[-1]
        dtype = next(self.parameters()).dtype
        known = self._features
        if known is None or (len(known), known.dtype, known.device) != (2 * num_bins + 1, dtype, hidden.device):
            with torch.inference_mode(False):  # noqa: FBT003 - training may use what scoring has made; compilers want no name
                known = two_sided(self.features_of(num_bins)).to(hidden.device, dtype)
            self._features = known
        return known
