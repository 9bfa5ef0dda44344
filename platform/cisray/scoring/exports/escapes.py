"""Write text where some characters have a meaning: as %XX, which can be undone."""

import re

RESERVED_IN_INFO = re.compile(r"[%;=,|:\"\\\s\x00-\x1f\x7f]")
"""What has a meaning in INFO (VCF 4.3, 1.2), space, and what ends a quoted text."""
RESERVED_IN_TSV = re.compile(r"[\"\t\r\n]")


def percent_encoded(text: str, *, reserved: re.Pattern[str] = RESERVED_IN_INFO) -> str:
    """Write what is reserved as %XX, byte by byte in UTF-8; by default what is in INFO."""
    return reserved.sub(lambda match: "".join(f"%{byte:02X}" for byte in match.group().encode()), text)
