"""Make a small genome with tracks and variants of which the truth is known."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass

from cisray.errors import InputError
from cisray.files import folder_written_whole
from cisray.genome.sequence import decode, encode, reverse_complement
from cisray.genome.simulated_signal import MOTIFS, REACH_BP, TRACKS, expected_signal, occupancy
from cisray.genome.tracks import write_signal

EFFECT_BP = 2048
"""Bases around a variant over which its effect is summed; 1,024 of them stand before its first base."""
STEP_BP = 8
"""Bases that share one observed value."""
_EDGE_BP = EFFECT_BP // 2 + REACH_BP + 64  # no variant lies nearer to an end, so that its effect is whole
_SLOT_BP = 100  # room for a pair of sites
_LARGE, _NEGLIGIBLE = 0.1, 0.001  # |log2 fold change|
_STRONG = 0.5  # bound share
_BREAKS_SHARE = _BACKGROUND_SHARE = 0.4  # of the records; the rest are of class "other"
_DISPERSION = 0.05  # variance = mean + dispersion * mean squared
# from row to column; its stationary distribution has a GC content of 0.38, as the yeast genome
_TRANSITIONS = np.array(
    [[0.36, 0.17, 0.19, 0.28], [0.33, 0.20, 0.15, 0.32], [0.32, 0.20, 0.20, 0.28], [0.25, 0.19, 0.20, 0.36]]
)
_CHAIN_BP = 1000


@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class SimulationSpec:
    """What to simulate."""

    seed: int = Field(default=0, ge=0)
    """The same seed and lengths give the same genome; the same specification gives the same bytes."""
    contig_lengths: dict[str, int] = Field(
        default_factory=lambda: {"sim1": 800_000, "sim2": 600_000, "sim3": 300_000, "sim4": 300_000}
    )
    """Bases of each contig, by name."""
    sites_per_kb: float = Field(default=2.0, gt=0, le=1000 / _SLOT_BP)
    """Planted sites per 1,000 bases; a pair of sites counts as one."""
    num_variants: int = Field(default=2000, ge=0)
    """Records of the variant file."""

    def __post_init__(self) -> None:
        for name, length in self.contig_lengths.items():
            if length < 4 * EFFECT_BP or not name.isidentifier():
                raise InputError(
                    f"simulated contig {name!r} of {length} bases; give a name of letters, digits and _ "
                    f"and at least {4 * EFFECT_BP} bases"
                )
        if not self.contig_lengths:
            raise InputError("contig_lengths is empty; name at least one contig to simulate")


class _Site(NamedTuple):
    contig: str
    center: int
    motif: int
    strand: int


class _Contig(NamedTuple):
    codes: NDArray[np.uint8]
    expected: NDArray[np.float64]  # [T, L]


class _Record(NamedTuple):
    contig: str
    start: int
    ref: str
    alts: tuple[str, ...]
    kind: str


_Sums = tuple[NDArray[np.float64], NDArray[np.float64]]  # of the reference and of an alternate [T]


def simulate(out_dir: Path | str, *, spec: SimulationSpec) -> None:
    """Write `genome.fa`, `tracks/*.bw`, `variants.vcf`, `truth.tsv` and `README.txt` into a new folder.

    The same specification gives the same bytes. Raises InputError if the folder is there and not empty.
    """
    out_dir = Path(out_dir)
    if out_dir.exists() and (not out_dir.is_dir() or any(out_dir.iterdir())):
        raise InputError(f"{out_dir}: already there and not an empty folder; name a new one, or remove it first")
    genome, sites = {}, []
    for number, (name, length) in enumerate(spec.contig_lengths.items()):
        rng = np.random.default_rng([spec.seed, 0, number])
        codes = _background(rng, length)
        sites += _plant(rng, name, codes, sites_per_kb=spec.sites_per_kb)
        genome[name] = _Contig(codes, expected_signal(codes))
    records = _draw_records(np.random.default_rng([spec.seed, 1]), genome, sites, spec=spec)
    with folder_written_whole(out_dir) as aside:
        _write_fasta(aside / "genome.fa", genome)
        (aside / "tracks").mkdir()
        gap = _gap(spec)
        for number, track in enumerate(TRACKS):
            rng = np.random.default_rng([spec.seed, 2, number])
            signals = {name: contig.expected[number] for name, contig in genome.items()}
            _write_track(aside / "tracks" / f"{track}.bw", rng, signals, gap=None if number else gap)
        _write_vcf(aside / "variants.vcf", spec, records)
        _write_truth(aside / "truth.tsv", genome, records)
        (aside / "README.txt").write_text(
            f"Made by `cisray simulate` with {spec}.\n"
            f"Track {TRACKS[0]} has no values in {gap[0]}:{gap[1]}-{gap[2]} (0-based, half-open); "
            f"truth.tsv: effects summed over [pos - 1 - {EFFECT_BP // 2}, pos - 1 + {EFFECT_BP // 2}).\n"
        )


def _background(rng: np.random.Generator, length: int) -> NDArray[np.uint8]:
    """Draw codes [L] from a Markov chain of order 1, many chains side by side."""
    chains = -(-length // _CHAIN_BP)
    limits = _TRANSITIONS.cumsum(axis=1)[:, :3]
    codes = np.empty((chains, _CHAIN_BP), np.uint8)
    state = rng.choice(4, chains, p=[0.31, 0.19, 0.19, 0.31])
    for step, draws in enumerate(rng.random((_CHAIN_BP, chains))):
        codes[:, step] = state = (draws[:, None] > limits[state]).sum(axis=1)
    return codes.ravel()[:length].copy()


def _plant(rng: np.random.Generator, contig: str, codes: NDArray[np.uint8], *, sites_per_kb: float) -> list[_Site]:
    """Write sites into `codes`, one slot each: A, B, C, or A followed by B on the same strand."""
    slots = int(len(codes) * sites_per_kb / 1000)
    width = len(codes) / max(slots, 1)
    sites = []
    for slot in range(slots):
        strand = int(rng.integers(2))
        kind = rng.choice(["A", "B", "C", "AB"], p=[0.3, 0.1, 0.3, 0.3])
        chosen = [motif for motif in MOTIFS if motif.name in kind]
        gap_bp = int(rng.integers(10, 31))
        start = int(slot * width + rng.uniform(0, width - _SLOT_BP / 2))
        # on the minus strand the whole slot is turned round, so that B still comes after A
        for motif in chosen[::-1] if strand else chosen:
            draws = rng.random((2 * motif.half + 1, 1))
            site = (draws > motif.probabilities.cumsum(axis=1)[:, :3]).sum(axis=1).astype(np.uint8)
            codes[start : start + len(site)] = reverse_complement(site) if strand else site
            sites.append(_Site(contig, start + motif.half, MOTIFS.index(motif), strand))
            start += len(site) + gap_bp
    return sites


def _draw_records(
    rng: np.random.Generator, genome: Mapping[str, _Contig], sites: list[_Site], *, spec: SimulationSpec
) -> list[_Record]:
    """Draw variants of the three classes, no two at one position, in the order of the genome."""
    breaking = round(spec.num_variants * _BREAKS_SHARE)
    background = round(spec.num_variants * _BACKGROUND_SHARE)
    records: dict[tuple[str, int], _Record] = {}
    _add(records, breaking, _draw_breaking(rng, genome, sites))
    _add(records, background, _draw_background(rng, genome))
    _add(records, spec.num_variants - breaking - background, _draw_other(rng, genome, sites))
    order = {name: number for number, name in enumerate(genome)}
    return sorted(records.values(), key=lambda record: (order[record.contig], record.start))


def _add(records: dict[tuple[str, int], _Record], count: int, candidates: Iterator[_Record]) -> None:
    wanted = len(records) + count
    while len(records) < wanted:
        record = next(candidates, None)
        if record is None:
            raise InputError(
                f"the simulated genome has room for {len(records)} variants of the {wanted} wanted so far; "
                "lower num_variants, or raise sites_per_kb or the contig lengths"
            )
        records.setdefault((record.contig, record.start), record)


def _draw_breaking(rng: np.random.Generator, genome: Mapping[str, _Contig], sites: list[_Site]) -> Iterator[_Record]:
    """Draw SNVs that take more than half of a strong site's occupancy and change some track much."""
    width = max(2 * motif.half + 1 for motif in MOTIFS)
    for number in rng.permutation(len(sites) * width):
        site, motif = sites[number // width], MOTIFS[sites[number // width].motif]
        position = number % width
        codes = genome[site.contig].codes
        start = site.center - motif.half + int(position)
        if position > 2 * motif.half or not _is_inside(start, codes):
            continue
        before = codes[site.center - motif.half : site.center + motif.half + 1]
        after = before.copy()
        after[position] = _other_base(rng, before[position])
        bound, left = (float(occupancy(c, motif)[site.strand, motif.half]) for c in (before, after))
        record = _Record(site.contig, start, *_letters(before[position], after[position]), kind="breaks_motif")
        if bound >= _STRONG and left < bound / 2 and _largest_effect(genome, record) >= _LARGE:
            yield record


def _draw_background(rng: np.random.Generator, genome: Mapping[str, _Contig]) -> Iterator[_Record]:
    """Draw SNVs that change no track."""
    for contig, start in _draw_positions(rng, genome):
        base = genome[contig].codes[start]
        record = _Record(contig, start, *_letters(base, _other_base(rng, base)), kind="background")
        if _largest_effect(genome, record) <= _NEGLIGIBLE:
            yield record


def _draw_other(rng: np.random.Generator, genome: Mapping[str, _Contig], sites: list[_Site]) -> Iterator[_Record]:
    """Draw SNVs, insertions, deletions, MNVs and records of two alternates, half of them at sites."""
    for contig, start in _draw_positions(rng, genome):
        codes = genome[contig].codes
        if rng.random() < 0.5 and sites:
            site = sites[rng.integers(len(sites))]
            contig, codes = site.contig, genome[site.contig].codes
            start = site.center + int(rng.integers(-6, 7))
        if not _is_inside(start, codes):
            continue
        kind = rng.choice(["snv", "insertion", "deletion", "mnv", "two"], p=[0.3, 0.2, 0.2, 0.15, 0.15])
        yield _Record(contig, start, *_alleles(rng, str(kind), codes[start : start + 8]), kind="other")


def _alleles(rng: np.random.Generator, kind: str, codes: NDArray[np.uint8]) -> tuple[str, tuple[str, ...]]:
    """Return REF and ALTs of a variant that starts at the first of `codes`."""
    bases = decode(codes)
    change = decode(np.array([_other_base(rng, code) for code in codes], np.uint8))
    size = int(rng.integers(1, 7))
    match kind:
        case "insertion":
            return bases[0], (bases[0] + decode(rng.integers(4, size=size).astype(np.uint8)),)
        case "deletion":
            return bases[: size + 1], (bases[0],)
        case "mnv":
            return bases[: 2 + size % 2], (change[: 2 + size % 2],)
        case "two":
            return bases[0], tuple(sorted(set("ACGT") - {bases[0]} - {change[0]}))
        case _:
            return bases[0], (change[0],)


def _draw_positions(rng: np.random.Generator, genome: Mapping[str, _Contig]) -> Iterator[tuple[str, int]]:
    """Give every position that a variant may have, once, in random order."""
    names = list(genome)
    lengths = [len(contig.codes) - 2 * _EDGE_BP for contig in genome.values()]
    ends = np.cumsum(lengths)
    for number in rng.permutation(ends[-1]):
        contig = int(np.searchsorted(ends, number, side="right"))
        yield names[contig], int(number - ends[contig] + lengths[contig] + _EDGE_BP)


def _is_inside(start: int, codes: NDArray[np.uint8]) -> bool:
    return _EDGE_BP <= start < len(codes) - _EDGE_BP


def _other_base(rng: np.random.Generator, code: int) -> int:
    return int((code + rng.integers(1, 4)) % 4)


def _letters(code: int, other: int) -> tuple[str, tuple[str]]:
    return "ACGT"[code], ("ACGT"[other],)


def _largest_effect(genome: Mapping[str, _Contig], record: _Record) -> float:
    return max(float(np.abs(_log2fc(_sums(genome, record, alt))).max()) for alt in record.alts)


def _sums(genome: Mapping[str, _Contig], record: _Record, alt: str) -> _Sums:
    """Return the expected signal of each track around a variant, without it and with it.

    Where an allele's length differs, the sequence stays in place on the left and moves up on the right.
    """
    codes, expected = genome[record.contig]
    start, half = record.start, EFFECT_BP // 2
    left, right = codes[start - half - REACH_BP : start], codes[start + len(record.ref) :]
    changed = np.concatenate([left, encode(alt), right[: half + REACH_BP]])[: EFFECT_BP + 2 * REACH_BP]
    alternate = expected_signal(changed)[:, REACH_BP : REACH_BP + EFFECT_BP]
    return expected[:, start - half : start + half].sum(axis=1), alternate.sum(axis=1)


def _log2fc(sums: _Sums) -> NDArray[np.float64]:
    return np.log2((1 + sums[1]) / (1 + sums[0]))


def _gap(spec: SimulationSpec) -> tuple[str, int, int]:
    """Return the stretch where the first track has no values: a twentieth of the first contig."""
    name, length = next(iter(spec.contig_lengths.items()))
    start = length // 2 // STEP_BP * STEP_BP
    return name, start, start + length // 20 // STEP_BP * STEP_BP


def _write_fasta(path: Path, genome: Mapping[str, _Contig]) -> None:
    with path.open("w", encoding="ascii") as handle:
        for name, contig in genome.items():
            bases = decode(contig.codes)
            lines = [bases[start : start + 60] for start in range(0, len(bases), 60)]
            handle.write("\n".join([f">{name}", *lines, ""]))


def _write_track(
    path: Path,
    rng: np.random.Generator,
    signals: Mapping[str, NDArray[np.float64]],
    *,
    gap: tuple[str, int, int] | None,
) -> None:
    """Observe the expected signal [L] of each contig in steps, and write it as bigWig, but for the gap."""
    observed = {}
    for name, signal in signals.items():
        starts = np.arange(0, len(signal), STEP_BP)
        means = np.add.reduceat(signal, starts) / np.diff(starts, append=len(signal))
        # a mixture of Poisson distributions: negative binomial
        values = rng.poisson(rng.gamma(1 / _DISPERSION, _DISPERSION * means)).astype(np.float64)
        if gap and gap[0] == name:
            values[gap[1] // STEP_BP : gap[2] // STEP_BP] = np.nan
        observed[name] = starts, values
    write_signal(path, {name: len(signal) for name, signal in signals.items()}, observed, step_bp=STEP_BP)


def _write_vcf(path: Path, spec: SimulationSpec, records: list[_Record]) -> None:
    lines = [
        "##fileformat=VCFv4.2",
        "##source=cisray simulate",
        '##FILTER=<ID=PASS,Description="All filters passed">',
    ]
    lines += [f"##contig=<ID={name},length={length}>" for name, length in spec.contig_lengths.items()]
    lines.append("#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO")
    lines += [
        f"{record.contig}\t{record.start + 1}\tv{number}\t{record.ref}\t{','.join(record.alts)}\t.\tPASS\t."
        for number, record in enumerate(records)
    ]
    path.write_text("\n".join([*lines, ""]), encoding="ascii")


def _write_truth(path: Path, genome: Mapping[str, _Contig], records: list[_Record]) -> None:
    columns = ["record_index", "allele_index", "contig", "pos", "ref", "alt", "class"]
    columns += [f"true_{figure}_{track}" for figure in ("delta_sum", "log2fc") for track in TRACKS]
    lines = ["\t".join(columns)]
    for number, record in enumerate(records):
        for allele, alt in enumerate(record.alts):
            sums = _sums(genome, record, alt)
            effects = [*(sums[1] - sums[0]).tolist(), *_log2fc(sums).tolist()]
            row = [number, allele, record.contig, record.start + 1, record.ref, alt, record.kind, *effects]
            lines.append("\t".join(map(str, row)))
    path.write_text("\n".join([*lines, ""]), encoding="ascii")
