"""The bytes in a data URL (RFC 2397). The declared type says nothing here: the bytes decide."""

import binascii

from serving.images.errors import ImageError

BROKEN = "A picture's base64 is broken: it is written with + and /, whole and with its = at the end."


def is_data_url(url: str) -> bool:
    return url[:5].lower() == "data:"


def read_data_url(url: str) -> bytes:
    """The decoded bytes. Raises ImageError unless it is `data:…;base64,` followed by base64, in lines or not."""
    import pybase64  # comes with vLLM; several times faster than the standard library's

    head, comma, encoded = url.partition(",")
    if not is_data_url(url) or not comma or not head.rstrip().lower().endswith(";base64"):
        raise ImageError(
            "A data URL must be base64: data:image/jpeg;base64,… with the file's bytes.",
            cause=f"a data URL that begins with {url[:32]!r}",
        )
    try:
        try:
            return bytes(pybase64.b64decode(encoded, validate=True))
        except binascii.Error:  # as MIME and `base64` write it; looking for lines first would cost every picture
            return bytes(pybase64.b64decode("".join(encoded.split()), validate=True))
    except (binascii.Error, ValueError) as error:  # the latter for what is not ASCII
        raise ImageError(BROKEN, cause=f"bad base64: {error}") from error
