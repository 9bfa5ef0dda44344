"""Run a model over reference and alternate windows, and turn what it says into scores."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cisray.errors import InputError
from cisray.genome.sequence import reverse_complement
from cisray.scoring.effects import Score

Predict = Callable[[Tensor], Tensor]
"""From codes uint8 [B, L] to predictions float [B, N, T], on the natural scale."""


@dataclass(frozen=True, kw_only=True)
class PairScores:
    """What a model says of a batch of window pairs."""

    values: dict[str, NDArray[np.float32]]
    """Per score [B, T]."""
    noise_floor: dict[str, float]
    """Per score, the largest |score| of a variant that changes nothing; 0.0 where no pair was scored."""


def score_pairs(
    predict: Predict,
    reference_codes: NDArray[np.uint8],
    alternate_codes: NDArray[np.uint8],
    *,
    scores: Mapping[str, Score],
    strands: Literal["forward", "both"],
    batch_size: int,
    swap: NDArray[np.integer] | None = None,
) -> PairScores:
    """Score alternate against reference windows, codes [B, L] each, in forwards of one shape.

    Every forward has `batch_size` rows, `batch_size - 1` of them pairs: kernels chosen by batch size must
    not pass for effects. The last row of each batch is a null variant: the batch's first reference, read as the last
    row of the alternates and compared with the first row of the references, so that rounding which depends on a row's
    place shows. What it scores is the noise floor. A short batch is filled with its own first pair.

    With "both", the reverse complement is read too: its bins are flipped and track t is taken from
    track swap[t] (int [T]; None where no track has a strand); scores are made per pass, then averaged.

    Without pairs the values are [0, 0]: how many tracks there are, only a forward can tell.

    Raises InputError for windows that do not pair up, a batch size below two, a swap that is no pairing of
    the tracks, and predictions of a wrong shape or not finite.
    """
    _check_pairs(reference_codes, alternate_codes, batch_size=batch_size)
    if strands not in ("forward", "both"):
        raise InputError(f'strands={strands!r} is unknown; choose "forward" or "both"')
    chunks: dict[str, list[Tensor]] = {name: [] for name in scores}
    noise_floor = dict.fromkeys(scores, 0.0)
    with torch.inference_mode():
        for reference, alternate, num_pairs in _batches(reference_codes, alternate_codes, batch_size=batch_size):
            passes = [_predict_pair(predict, reference, alternate)]
            if strands == "both":
                passes.append(_predict_pair_reversed(predict, reference, alternate, swap=swap))
            for name, score in scores.items():
                values = torch.stack([score.function(*pair) for pair in passes]).mean(dim=0).cpu()  # [B, T]
                _check_finite(values, name=name)
                chunks[name].append(values[:num_pairs])
                noise_floor[name] = max(noise_floor[name], values[-1].abs().max().item())
    return PairScores(values={name: _concatenate(parts) for name, parts in chunks.items()}, noise_floor=noise_floor)


def _batches(
    reference_codes: NDArray[np.uint8], alternate_codes: NDArray[np.uint8], *, batch_size: int
) -> Iterator[tuple[Tensor, Tensor, int]]:
    """Cut pairs into reference and alternate codes [batch_size, L] and the number of pairs in them."""
    for start in range(0, len(reference_codes), batch_size - 1):
        rows = slice(start, start + batch_size - 1)
        # copies: torch warns of memory that it may not write to, such as Arrow's
        reference = torch.from_numpy(np.array(reference_codes[rows], order="C"))
        alternate = torch.from_numpy(np.array(alternate_codes[rows], order="C"))
        num_pairs = len(reference)
        num_filled = batch_size - 1 - num_pairs
        null = reference[:1]
        yield (
            torch.cat([reference, reference[:1].expand(num_filled, -1), null]),
            torch.cat([alternate, alternate[:1].expand(num_filled, -1), null]),
            num_pairs,
        )


def _predict_pair(predict: Predict, reference: Tensor, alternate: Tensor) -> tuple[Tensor, Tensor]:
    """Predict both alleles, [B, N, T] each."""
    pair = predict(reference), predict(alternate)
    for predictions in pair:
        if predictions.ndim != 3 or len(predictions) != len(reference):
            raise InputError(
                f"the model gave predictions {tuple(predictions.shape)} for {len(reference)} windows; "
                f"wanted [{len(reference)}, bins, tracks]"
            )
    return torch.cat([pair[0][:-1], pair[0][:1]]), pair[1]  # the null variant's reference is read as the first row


def _predict_pair_reversed(
    predict: Predict, reference: Tensor, alternate: Tensor, *, swap: NDArray[np.integer] | None
) -> tuple[Tensor, Tensor]:
    """Predict both alleles from their reverse complement, turned back to the forward strand."""
    other_strands = [torch.from_numpy(reverse_complement(codes.numpy())) for codes in (reference, alternate)]
    pair = _predict_pair(predict, *other_strands)
    num_tracks = pair[0].shape[2]
    partners = np.arange(num_tracks) if swap is None else np.asarray(swap, np.int64)
    if not _is_pairing(partners, num_tracks=num_tracks):
        raise InputError(
            f"swap={partners.tolist()} does not pair {num_tracks} tracks; wanted one partner per track, "
            "its own index for a track without a strand"
        )
    order = torch.from_numpy(partners).to(pair[0].device)
    return pair[0].flip(1)[:, :, order], pair[1].flip(1)[:, :, order]


def _is_pairing(partners: NDArray[np.integer], *, num_tracks: int) -> bool:
    """Say whether each track's partner has that track as its own partner."""
    if partners.shape != (num_tracks,) or partners.min() < 0 or partners.max() >= num_tracks:
        return False
    return bool((partners[partners] == np.arange(num_tracks)).all())


def _check_pairs(reference_codes: NDArray[np.uint8], alternate_codes: NDArray[np.uint8], *, batch_size: int) -> None:
    for name, codes in (("reference", reference_codes), ("alternate", alternate_codes)):
        if codes.ndim != 2 or codes.dtype != np.uint8:
            raise InputError(f"{name} codes are {codes.dtype} {codes.shape}; wanted uint8 [windows, bases]")
    if reference_codes.shape != alternate_codes.shape:
        raise InputError(
            f"reference codes {reference_codes.shape} and alternate codes {alternate_codes.shape} "
            "do not pair up; wanted one alternate window per reference window"
        )
    if batch_size < 2:
        raise InputError(f"batch_size={batch_size} leaves no room for a pair beside the null variant; give 2 or more")


def _check_finite(values: Tensor, *, name: str) -> None:
    bad = int((~torch.isfinite(values)).any(dim=1).sum())
    if bad:
        raise InputError(
            f"{name} is not finite for {bad} of {len(values)} rows of a batch: the model's predictions "
            "overflow or are NaN; predict in float32, or check the model's weights"
        )


def _concatenate(parts: list[Tensor]) -> NDArray[np.float32]:
    return torch.cat(parts).numpy() if parts else np.empty((0, 0), np.float32)
