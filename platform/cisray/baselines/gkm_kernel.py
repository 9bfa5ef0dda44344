"""The gapped k-mer kernel of sequences, exact: every pair of l-mers counts by its mismatches.

A table over all l-mers takes up what one sequence gives to each: its l-mers and all their neighbours within d
mismatches, whose words differ by the same patterns of bits. Every other sequence then only looks its l-mers up. On
1,288 sequences of 200 bases that is several times faster than products of sparse counts of gapped k-mers.
"""

from collections.abc import Sequence
from itertools import combinations, pairwise, product

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from cisray.baselines.gkm_filters import BASES, GkmSpec, mismatch_coefficients
from cisray.baselines.gkm_lmers import Codes, Lmers, find_lmers, norms

_NEIGHBOURS_AT_ONCE = 1 << 22  # of the l-mers of a long sequence, so that memory does not grow with its length


def kernel_matrix(
    rows: Sequence[Codes], columns: Sequence[Codes] | None = None, *, spec: GkmSpec, device: str | torch.device = "cpu"
) -> NDArray[np.float64]:
    """Return the normalised kernel of every sequence with every other: codes [L] each, to [B1, B2]; 1 for a like pair.

    Without `columns`, of `rows` among each other, at half the work. On a GPU the order of sums, and so the last
    digits, change from run to run.

    Raises:
        InputError: a sequence is shorter than l, or holds no l-mer without N.
    """
    left = find_lmers(rows, spec)
    right = left if columns is None else find_lmers(columns, spec)
    coefficients = mismatch_coefficients(spec)
    row_norms = norms(rows, spec, coefficients)
    column_norms = row_norms if columns is None else norms(columns, spec, coefficients)
    products = _products(left, right, spec, coefficients, torch.device(device))
    if columns is None:
        products += np.triu(products, 1).T
        np.fill_diagonal(products, np.square(row_norms))
    return products / np.outer(row_norms, column_norms)


def neighbour_patterns(spec: GkmSpec, coefficients: NDArray[np.float64]) -> tuple[Tensor, Tensor]:
    """Return by which bits an l-mer's word differs from those within d mismatches, int64 [P], and their kernels [P].

    In rising order, so that a table's entries are visited page by page.
    """
    patterns = {}
    for m in np.flatnonzero(coefficients).tolist():
        for places in combinations(range(spec.l), m):
            for changes in product(range(1, BASES), repeat=m):
                pattern = sum(change << 2 * place for change, place in zip(changes, places, strict=True))
                patterns[pattern] = coefficients[m]
    rising = sorted(patterns)
    kernels = [patterns[pattern] for pattern in rising]
    return torch.tensor(rising, dtype=torch.int64), torch.tensor(kernels, dtype=torch.float32)


def _products(
    left: Lmers, right: Lmers, spec: GkmSpec, coefficients: NDArray[np.float64], device: torch.device
) -> NDArray[np.float64]:
    """Sum the kernel over all pairs of l-mers, [B1, B2]; of one set with itself, the upper triangle alone is filled."""
    patterns, kernels = (each.to(device) for each in neighbour_patterns(spec, coefficients))
    strands = [left.words, left.other_strand] if spec.reverse_complement else [left.words]
    looked_up = [torch.from_numpy(words.astype(np.int64)).to(device) for words in strands]
    starts = torch.from_numpy(left.starts[:-1]).to(device)
    words = torch.from_numpy(right.words.astype(np.int64)).to(device)
    left_weights, right_weights = (
        None if lmers.weights is None else torch.from_numpy(lmers.weights).to(device) for lmers in (left, right)
    )
    table = torch.zeros(BASES**spec.l, 1, device=device)
    at_once = max(1, _NEIGHBOURS_AT_ONCE // len(patterns))
    products = torch.zeros(len(right.counts), len(left.counts), device=device)
    for column, (start, stop) in enumerate(pairwise(right.starts.tolist())):
        table.zero_()
        for first in range(start, stop, at_once):
            part = slice(first, min(first + at_once, stop))
            near = words[part, None] ^ patterns
            given = kernels.expand_as(near) if right_weights is None else right_weights[part, None] * kernels
            table[:, 0].scatter_add_(0, near.view(-1), given.reshape(-1))
        num = column + 1 if left is right else len(left.counts)
        last = int(left.starts[num])
        weights = None if left_weights is None else left_weights[:last]
        for strand in looked_up:
            sums = F.embedding_bag(strand[:last], table, starts[:num], mode="sum", per_sample_weights=weights)
            products[column, :num] += sums[:, 0]
    return products.T.double().cpu().numpy()
