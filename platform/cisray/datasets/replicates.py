"""A second measurement of tracks, such as a replicate, on the bins of the first: how far two measurements agree.

It is another track of the dataset, or a file of signal that is binned and transformed as the track is.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cisray.datasets.card import Card, Track, track_transforms
from cisray.datasets.transforms import to_natural
from cisray.datasets.window_signal import NO_MASKING, OpenTrack, Part, read_tracks
from cisray.errors import InputError
from cisray.genome.contigs import map_contigs
from cisray.genome.intervals import suggest_names
from cisray.genome.tracks import open_signal


class Replicates:
    """The second measurements of some tracks, opened; of files nothing stays open between two reads."""

    def __init__(self, seconds: Mapping[str, str], card: Card) -> None:
        """Open what `seconds` gives to tracks by name: another track's name, or a file's path.

        Raises:
            InputError: a track is unknown, is its own second, or its second is neither a track nor a readable file of
                this genome; or the dataset's masks changed what a file still holds.
        """
        self.tracks = list(seconds)
        """Names of the tracks that have a second measurement, in the order of `read`'s last axis."""
        self._card = card
        self._of_dataset: dict[int, int] = {}  # position in `tracks` to that of the second among the dataset's
        self._files: dict[int, OpenTrack] = {}
        for place, (name, second) in enumerate(seconds.items()):
            if name not in card.track_names:
                raise InputError(f"ceiling of track {name!r}: no such track{suggest_names(name, card.track_names)}")
            if second == name:
                raise InputError(f"ceiling of track {name}: it is its own second measurement; give another one")
            if second in card.track_names:
                self._of_dataset[place] = card.track_names.index(second)
            else:
                self._files[place] = _open(card.tracks[card.track_names.index(name)], second, card)

    @property
    def paths(self) -> list[Path]:
        """The files among the second measurements."""
        return [one.signal.path for one in self._files.values()]

    def read(
        self, contigs: Sequence[str], starts: NDArray[np.integer], measured: NDArray[np.floating]
    ) -> NDArray[np.float32]:
        """Return the second measurements of windows at `starts` [B], on the natural scale, [B, N, K].

        `measured` [B, N, T] are all tracks of the dataset on that scale; NaN is where there is no data.
        """
        out = np.full((*measured.shape[:2], len(self.tracks)), np.nan, np.float32)
        for place, index in self._of_dataset.items():
            out[:, :, place] = measured[:, :, index]
        for place, one in self._files.items():
            values = self._read_file(one, np.asarray(contigs), starts)
            out[:, :, place] = to_natural(values, track_transforms([one.track]))[:, :, 0]
        return out

    def _read_file(self, one: OpenTrack, contigs: NDArray[np.str_], starts: NDArray[np.integer]) -> NDArray[np.float64]:
        """Return a file's bins as targets, [B, N, 1]; windows that lie together are read together."""
        geometry = self._card.geometry
        part = Part(geometry.crop_bp, geometry.target_bp, geometry.bin_bp, geometry.window_bp)
        out = np.full((len(starts), geometry.num_bins, 1), np.nan)
        for contig in np.unique(contigs):
            rows = np.flatnonzero(contigs == contig)
            rows = rows[np.argsort(starts[rows], kind="stable")]
            apart = np.flatnonzero(np.diff(starts[rows]) > geometry.window_bp) + 1
            for together in np.split(rows, apart):
                out[together] = read_tracks([one], str(contig), starts[together], part=part, masking=NO_MASKING)
        return out


def _open(track: Track, file: str, card: Card) -> OpenTrack:
    """Open a file as a second measurement of a track."""
    path = Path(file)
    source = f"ceiling of track {track.name}"
    genome = card.genome_for(f"{source} from a file")
    if card.kind != "coverage":
        raise InputError(f"{source}: {file} is not a track of the dataset, whose targets are {card.kind}; name one")
    masks = card.job.get("masks", {})
    if masks.get("blacklist") or masks.get("unmappable_clip_quantile", 1.0) < 1:
        raise InputError(
            f"{source}: the dataset's masks lowered values that {file} still holds; build the dataset with that file "
            "as a track too, and name the track"
        )
    if not path.is_file():
        raise InputError(
            f"{source}: {file} is no file that is there, and no track{suggest_names(path.name, card.track_names)}"
        )
    signal = open_signal(path)
    names = map_contigs(signal.contig_lengths, genome.contig_lengths, source=str(path)).names
    if not names:
        raise InputError(f"{path}: has no contig in common with {genome.name}; give a file of the same assembly")
    lengths = {foreign: genome.contig_lengths[ours] for foreign, ours in names.items()}
    signal.check_lengths(lengths)
    second = dataclasses.replace(track, file=str(path))
    return OpenTrack(second, signal, {ours: foreign for foreign, ours in names.items()}, lengths)
