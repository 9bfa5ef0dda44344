"""Place the windows that may have a label: laid over the genome, or over the middle of peaks."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cisray.datasets.loci.tiling import WindowSpec, tile
from cisray.datasets.peaks.negatives import Scene
from cisray.datasets.peaks.peak_files import Peaks
from cisray.datasets.peaks.placement import Ground, Windows, jitter_by_locus

_CENTRE_SHARE = 0.1  # of a window: the middle part in which a peak counts as centred


class Placed(NamedTuple):
    """Positives, with what was left out on the way to them."""

    windows: Windows
    dropped: dict[str, int]
    facts: dict[str, Any]


def place_tiles(scene: Scene, spec: WindowSpec, *, guard_bp: int, data_dir: str | None) -> Placed:
    """Place windows side by side or `stride_bp` apart, as datasets.loci.tiling says."""
    geometry = scene.ground.geometry
    tiling = tile(
        scene.ground.regions,
        scene.reference.contig_lengths,
        geometry=geometry,
        spec=spec,
        masks=scene.masks,
        data_dir=data_dir,
        guard_bp=guard_bp,
    )
    region, start = [], []
    for shard in tiling.shards:
        start.append(np.array(shard.starts, np.int64))
        target_start = np.maximum(0, start[-1] + geometry.crop_bp)  # a padded one may begin before the contig
        region.append(scene.ground.locate(shard.contig, target_start))
    dropped = {f"{split} bases under no window": bases for split, bases in tiling.uncovered_bp.items()}
    for split, reasons in tiling.dropped.items():
        dropped |= {f"{split} {reason}": count for reason, count in reasons.items()}
    windows = Windows.of(np.concatenate(region), np.concatenate(start))
    left_out = {"limit": dict(tiling.limit_left_out)} if tiling.limit_left_out else {}
    facts = {"tiled_windows": len(windows.start), "intervals_on_other_contigs": left_out}
    return Placed(windows, dropped, facts)


def place_on_peaks(ground: Ground, peaks: Peaks, *, merge_bp: int, jitter_bp: int, seed: int) -> Placed:
    """Place a window over the middle of every group of summits."""
    geometry = ground.geometry
    half, near = geometry.window_bp // 2, int(geometry.window_bp * _CENTRE_SHARE / 2)
    region, start = [], []
    num_groups = num_outside = num_centred = num_still_centred = 0
    for contig, of_contig in peaks.contigs.items():
        summits = np.unique(of_contig.summit)
        centre = _group_summits(summits, merge_bp)
        shifted = jitter_by_locus(contig, centre, jitter_bp=jitter_bp, seed=seed)
        owner = ground.locate(contig, shifted)
        inside = owner >= 0
        region.append(owner[inside])
        start.append(shifted[inside] - half)
        num_groups += len(centre)
        num_outside += int((~inside).sum())
        num_centred += int((_nearest_bp(summits, centre[inside]) <= near).sum())
        num_still_centred += int((_nearest_bp(summits, shifted[inside]) <= near).sum())
    windows = Windows.of(np.concatenate(region), np.concatenate(start))
    fits = ground.fit(windows)
    dropped = {
        "peaks outside every split": num_outside,
        "windows on a peak beyond the ends of their region": int((~fits).sum()),
    }
    shares = [round(count / max(1, num_groups - num_outside), 4) for count in (num_centred, num_still_centred)]
    position = {"middle_bp": 2 * near + 1, "share_before_jitter": shares[0], "share_after_jitter": shares[1]}
    return Placed(windows.pick(fits), dropped, {"merged_peaks": num_groups, "peak_in_the_middle": position})


def _group_summits(summits: NDArray[np.int64], merge_bp: int) -> NDArray[np.int64]:
    """Return the rounded-down mean of each group of sorted summits: those up to `merge_bp` behind its first."""
    first, starts = 0, []
    while first < len(summits):
        starts.append(first)
        first = int(np.searchsorted(summits, summits[first] + merge_bp, side="right"))
    edges = np.array([*starts, len(summits)], np.int64)
    offset = np.add.reduceat(summits - summits[edges[:-1]].repeat(np.diff(edges)), edges[:-1])
    return summits[edges[:-1]] + offset // np.diff(edges)


def _nearest_bp(summits: NDArray[np.int64], positions: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the distance of each position to the nearest of the sorted summits."""
    after = np.searchsorted(summits, positions)
    left, right = summits[np.maximum(after - 1, 0)], summits[np.minimum(after, len(summits) - 1)]
    return np.minimum(np.abs(positions - left), np.abs(right - positions))
