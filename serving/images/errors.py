"""Why a picture is refused. Each is the client's to mend: HTTP status 400.

ImageError
└── HeaderCutOffError   the bytes end before the picture says its size
"""

UNREADABLE = "The picture cannot be read: send a whole JPEG, PNG, WebP or GIF file."


class ImageError(Exception):
    """`str(error)` is what the client may read; `cause` goes to the log only."""

    status = 400

    def __init__(self, message: str = UNREADABLE, *, cause: str = "") -> None:
        super().__init__(message)
        self.cause = cause or message


class HeaderCutOffError(ImageError):
    """Raised for a beginning that is too short: whoever holds more of the file may try again with more."""
