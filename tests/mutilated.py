"""Bytes with holes and additions in them."""


def mutilated(data: bytes, cuts: list[tuple[float, int, bytes]]) -> bytes:
    """Each cut says where (a share of the length), how many bytes are left out there, and what comes instead."""
    for place, left_out, instead in cuts:
        at = int(place * len(data))
        data = data[:at] + instead + data[at + left_out :]
    return data
