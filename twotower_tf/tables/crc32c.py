"""Computes the checksum of TFRecords."""

from __future__ import annotations

import google_crc32c


def masked_crc32c(text: bytes) -> int:
    """Computes TFRecord's checksum: CRC-32C (Castagnoli, RFC 3720), rotated right by 15 bits, plus a constant."""
    checksum: int = google_crc32c.value(text)
    return ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF
