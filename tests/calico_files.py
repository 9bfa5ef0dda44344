"""Write Calico's files by hand: TFRecords with checksums, and the text files beside them."""

import json
import struct
import zlib
from pathlib import Path

import numpy as np

STATISTICS = {
    "num_targets": 3,
    "seq_length": 16,
    "seq_1hot": True,
    "pool_width": 2,
    "crop_bp": 4,
    "target_length": 4,
    "train_seqs": 5,
    "valid_seqs": 2,
    "test_seqs": 2,
}
TARGETS = """\tidentifier\tfile\tclip\tclip_soft\tscale\tsum_stat\tstrand_pair\tdescription
0\tRNA+\trna+.w5\t384\t64\t0.3\tsum_sqrt\t1\tRNA:liver
1\tRNA-\trna-.w5\t384\t64\t0.3\tsum_sqrt\t0\tRNA:liver
2\tDNASE\tdnase.w5\t128\t32\t2.0\tmean\t2\tDNASE:liver
"""
# contig, start of the window, label
WINDOWS = [("chr1", 16 * i, "train") for i in range(5)]
WINDOWS += [("chr2", 0, "valid"), ("chr2", 40, "valid"), ("chr1", 120, "test"), ("chr1", 140, "test")]


def crc32c(data: bytes) -> int:
    """Divide by the Castagnoli polynomial, bit by bit."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def framed(record: bytes) -> bytes:
    """Put a record between its length and its checksums."""

    def masked(data: bytes) -> bytes:
        crc = crc32c(data)
        return struct.pack("<I", ((crc >> 15) + (crc << 17) % 2**32 + 0xA282EAD8) % 2**32)

    length = struct.pack("<Q", len(record))
    return length + masked(length) + record + masked(record)


def varint(number: int) -> bytes:
    low, rest = number % 128, number // 128
    return bytes([low + 128]) + varint(rest) if rest else bytes([low])


def field(number: int, payload: bytes) -> bytes:
    return varint(number * 8 + 2) + varint(len(payload)) + payload


def example(**features: bytes) -> bytes:
    """Encode a tf.train.Example whose features hold one string of bytes each."""
    entries = [field(1, name.encode()) + field(2, field(1, field(1, value))) for name, value in features.items()]
    return field(1, b"".join(field(1, entry) for entry in entries))


def write_records(path: Path, records: list[bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(zlib.compress(b"".join(map(framed, records))))


def arrays_of(num_rows: int, *, seed: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Return random codes [B, 16], N among them, and float16 targets [B, 4, 3]."""
    random = np.random.default_rng(seed)
    return random.integers(0, 5, (num_rows, 16), np.uint8), random.gamma(2, 9, (num_rows, 4, 3)).astype("<f2")


def one_hot(codes: np.ndarray) -> np.ndarray:
    return np.eye(5, dtype=np.uint8)[codes][..., :4]


def write_folder(
    path: Path,
    *,
    per_file: int = 2,
    extent: str = "target",
    windows: list[tuple[str, int, str]] = WINDOWS,
    **statistics: object,
) -> tuple[np.ndarray, np.ndarray]:
    """Write a whole folder of one record per window, files filled evenly, and return its codes and targets."""
    codes, targets = arrays_of(len(windows))
    path.mkdir(parents=True, exist_ok=True)
    values = STATISTICS | statistics
    (path / "statistics.json").write_text(
        json.dumps({key: value for key, value in values.items() if value is not None})
    )
    (path / "targets.txt").write_text(TARGETS)
    cut = 4 if extent == "target" else 0
    lines = [f"{contig}\t{start + cut}\t{start + 16 - cut}\t{label}\n" for contig, start, label in windows]
    (path / "sequences.bed").write_text("".join(lines))
    stored = codes if values["seq_1hot"] else one_hot(codes)
    for label in dict.fromkeys(label for _, _, label in windows):
        rows = [row for row, window in enumerate(windows) if window[2] == label]
        records = [example(sequence=stored[row].tobytes(), target=targets[row].tobytes()) for row in rows]
        for number, first in enumerate(range(0, len(rows), per_file)):
            write_records(path / "tfrecords" / f"{label}-{number}.tfr", records[first : first + per_file])
    return codes, targets
