"""Read and write the model files of LS-GKM: a text header, then a coefficient and a sequence a line."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cisray.baselines.gkm_filters import GkmSpec
from cisray.baselines.gkm_svm import GkmModel
from cisray.errors import InputError
from cisray.files import written_whole
from cisray.genome.compression import GZIP_ERRORS, check_is_file, open_unpacked
from cisray.genome.sequence import UNKNOWN, decode, encode

# The kernel of -t 2, its default: the one whose files have been compared with what LS-GKM makes of them.
_KERNEL = "gkm_esttrunc"
_SETTINGS = ("svm_type", "kernel_type", "L", "k", "d", "total_sv", "rho")
_CLASSES = {"nr_class": "2", "label": "1 -1"}
_KNOWN = {*_SETTINGS, *_CLASSES, "nr_sv"}


def read_gkm_model(path: Path, *, ignore: Sequence[str] = ()) -> GkmModel:
    """Read a model that gkmtrain wrote, plain or gzip.

    Args:
        path: the file, PREFIX.model.txt.
        ignore: lines of the header, by their first word, that may stand there though nothing is known of them.

    Raises:
        InputError: the file is missing, cut short, of another kernel, or says what is not known here.
    """
    check_is_file(path, wanted="a model file of LS-GKM")
    try:
        with open_unpacked(path) as handle:
            lines = handle.read().decode("ascii").splitlines()
    except (*GZIP_ERRORS, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a readable model file of LS-GKM ({error}); copy it again") from error
    if "SV" not in lines[:40]:
        raise InputError(f"{path}: no line SV among the first 40; wanted a model file that gkmtrain wrote")
    first = lines.index("SV") + 1
    header = _read_header(path, lines[: first - 1], ignore)
    coefficients, sequences = [], []
    for number, line in enumerate(lines[first:], start=first + 1):
        fields = line.split()
        if len(fields) != 2:
            raise InputError(f"{path}: line {number}: {line[:40]!r}; wanted a coefficient and a sequence")
        coefficients.append(_number(path, number, fields[0]))
        codes = encode(fields[1])
        if (codes == UNKNOWN).any():
            raise InputError(
                f"{path}: line {number}: a support vector with letters beside ACGT, which LS-GKM counts as A; write A "
                "there to score as it does"
            )
        sequences.append(codes)
    if len(sequences) != _whole(path, header, "total_sv"):
        raise InputError(f"{path}: {len(sequences)} support vectors of {header['total_sv']}; it was cut, copy it again")
    spec = GkmSpec(l=_whole(path, header, "L"), k=_whole(path, header, "k"), d=_whole(path, header, "d"))
    return GkmModel(spec, sequences, np.array(coefficients), _number(path, None, header["rho"]))


def write_gkm_model(model: GkmModel, path: Path) -> None:
    """Write a model of two classes as gkmtrain does, the positive support vectors first.

    Raises:
        InputError: the model's kernel is not LS-GKM's default, or a support vector holds an N.
    """
    if model.spec.kernel != "gkm" or not model.spec.reverse_complement:
        raise InputError(f"{path}: kernel {model.spec.kernel}; only gkm on both strands can be written for LS-GKM")
    if any((codes == UNKNOWN).any() for codes in model.sequences):
        raise InputError(f"{path}: a support vector holds N, which LS-GKM would count as A; train without such")
    positive = model.coefficients > 0
    header = [
        "svm_type c_svc",
        f"kernel_type {_KERNEL}",
        f"L {model.spec.l}",
        f"k {model.spec.k}",
        f"d {model.spec.d}",
        "nr_class 2",
        f"total_sv {len(positive)}",
        f"rho {model.rho:.17g}",
        "label 1 -1",
        f"nr_sv {positive.sum()} {(~positive).sum()}",
        "SV",
    ]
    order = np.argsort(~positive, kind="stable")
    rows = [f"{model.coefficients[number]:.17g} {decode(model.sequences[number])}" for number in order]
    with written_whole(path) as aside:
        aside.write_text("\n".join([*header, *rows, ""]), encoding="ascii")


def _read_header(path: Path, lines: list[str], ignore: Sequence[str]) -> dict[str, str]:
    header = {}
    for number, line in enumerate(lines, start=1):
        key, _, value = line.partition(" ")
        if key not in _KNOWN and key not in ignore:
            raise InputError(
                f"{path}: line {number}: {line[:40]!r} is not known here; if it changes no score, name {key!r} in "
                "ignore"
            )
        header[key] = value.strip()
    missing = [key for key in _SETTINGS if key not in header]
    if missing:
        raise InputError(f"{path}: the header lacks {', '.join(missing)}; wanted a model file that gkmtrain wrote")
    if header["kernel_type"] != _KERNEL:
        raise InputError(f"{path}: kernel_type {header['kernel_type']}; wanted {_KERNEL}, train with -t 2")
    wrong = [key for key, value in _CLASSES.items() if header.get(key, value) != value]
    if header["svm_type"] != "c_svc" or wrong:
        told = f"{wrong[0]} {header[wrong[0]]}" if wrong else f"svm_type {header['svm_type']}"
        raise InputError(f"{path}: {told}; wanted a machine of the two classes 1 and -1")
    return header


def _whole(path: Path, header: dict[str, str], key: str) -> int:
    if not header[key].isdecimal():
        raise InputError(f"{path}: {key} {header[key]}; wanted a whole number")
    return int(header[key])


def _number(path: Path, line: int | None, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = np.nan
    if not np.isfinite(value):
        where = "rho" if line is None else f"line {line}"
        raise InputError(f"{path}: {where}: {text[:40]!r}; wanted a number, and LS-GKM writes nan for a damaged model")
    return value
