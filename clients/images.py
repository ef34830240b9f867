"""Pictures on their way to a server: from a file to a data URL."""

import base64
import sys
from pathlib import Path

_TYPES = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG": "image/png", b"GIF8": "image/gif", b"RIFF": "image/webp"}


def data_url(picture: bytes) -> str:
    """The picture as `data:image/…;base64,…`; its type is read off its first bytes."""
    kind = next((kind for magic, kind in _TYPES.items() if picture.startswith(magic)), "application/octet-stream")
    return f"data:{kind};base64,{base64.b64encode(picture).decode()}"


def read_image(name: str) -> bytes:
    """The bytes of a file; `-` is standard input. Raises OSError."""
    return sys.stdin.buffer.read() if name == "-" else Path(name).expanduser().read_bytes()
