"""Tell what VCF allows as a contig, an identifier, alleles and a genotype, whatever file they stand in.

What one of the versions 4.1 to 4.4 allows passes. Beyond that, all IUPAC letters of either case pass as bases:
published files have them, and a row keeps them until it is known that they cannot be scored.
"""

import re
from collections.abc import Sequence

_BLANK = r"\x00-\x20\x7f"
# a contig of an assembly file may stand in angle brackets (VCF 4.3, section 1.6.1)
_CONTIG = re.compile(rf"[^{_BLANK}<>]+|<[^{_BLANK}<>]+>")
_ID = re.compile(rf"[^{_BLANK};]+(;[^{_BLANK};]+)*")
_BASES = "[ACGTUNRYSWKMBDHVacgtunryswkmbdhv]+"
_REF = re.compile(_BASES)
_SYMBOL = rf"<[^{_BLANK}<>,]+>"
_MATE = rf"(?:<[^{_BLANK}<>\[\],]+>|[^{_BLANK}<>\[\],]+):[0-9]+"
_ALT = re.compile(
    rf"{_BASES}|\*|(?:{_BASES})?{_SYMBOL}"  # bases before a symbol: an inserted contig (VCF 4.1, section 5.4.3)
    rf"|\.{_BASES}|{_BASES}\."  # lone breakends (VCF 4.3, section 5.4.9)
    rf"|{_BASES}(?:\[{_MATE}\[|\]{_MATE}\])|(?:\[{_MATE}\[|\]{_MATE}\]){_BASES}"
)
# VCF 4.4 may write the first allele's phase too
_GENOTYPE = re.compile(r"[|/]?([0-9]{1,9}|\.)([|/]([0-9]{1,9}|\.))*")


def record_fault(contig: str, name: str, ref: str, alts: Sequence[str]) -> str | None:
    """Say what no VCF may have of a record, as "has the REF 'A C'; wanted ..."; None where all is well."""
    if not _CONTIG.fullmatch(contig):
        return f"has the contig {contig!r}; wanted a name without blanks and stray angle brackets"
    if not _ID.fullmatch(name):
        return f"has the ID {name!r}; wanted names without blanks, parted by single semicolons, or '.'"
    if not _REF.fullmatch(ref):
        return f"has the REF {ref[:50]!r}; wanted letters of bases, at least one"
    if list(alts) != ["."] and not all(map(_ALT.fullmatch, alts)):
        return (
            f"has the ALT {','.join(alts)[:50]!r}; wanted alleles parted by single commas: letters of bases, '*', a "
            "symbol in angle brackets, a breakend, or '.' alone; VCF writes a deletion with the base before it"
        )
    return None


def genotype_fault(genotype: str | None, alts: Sequence[str]) -> str | None:
    """Say what is wrong with a genotype of a record, if anything is."""
    if genotype is None:
        return None
    if not _GENOTYPE.fullmatch(genotype):
        return f"has the genotype {genotype!r}; wanted numbers of alleles parted by '|' or '/'"
    highest = max(carried_alleles(genotype), default=0)
    if highest > len(alts):
        return f"has the genotype {genotype!r}, but {len(alts)} alternate alleles"
    return None


def carried_alleles(genotype: str) -> set[int]:
    """Return the numbers of the alternate alleles that a genotype names, from 1."""
    return {int(number) for number in re.findall("[0-9]+", genotype)} - {0}
