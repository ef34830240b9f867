"""What can be wrong on the caller's side. What the server says is the SDK's to raise.

InputError         what was given cannot be asked about: a file, a folder, a table, a schema
├── PictureError   it is no picture, or cannot be read as one
AnswerError        the server answered, but not with what was asked for
"""


class InputError(ValueError):
    """Says which, why, and what to do."""


class PictureError(InputError):
    pass


class AnswerError(ValueError):
    pass
