"""The bytes in a data URL (RFC 2397). The declared type says nothing here: the bytes decide."""

import binascii

from serving.images.errors import ImageError


def is_data_url(url: str) -> bool:
    return url[:5].lower() == "data:"


def read_data_url(url: str) -> bytes:
    """The decoded bytes. Raises ImageError unless it is `data:…;base64,` followed by strict base64."""
    import pybase64  # comes with vLLM; several times faster than the standard library's

    head, comma, encoded = url.partition(",")
    if not is_data_url(url) or not comma or not head.lower().endswith(";base64"):
        raise ImageError(
            "A data URL must be base64: data:image/jpeg;base64,… with the file's bytes.",
            cause=f"a data URL that begins with {url[:32]!r}",
        )
    try:
        return bytes(pybase64.b64decode(encoded, validate=True))
    except (binascii.Error, ValueError) as error:  # the latter for what is not ASCII
        raise ImageError("The base64 of a data URL is broken.", cause=f"bad base64: {error}") from error
