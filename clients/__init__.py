"""What calls a onecard server; usable without the serving stack: `from clients import Client`."""

from clients.async_client import AsyncClient
from clients.client import Client
from clients.errors import AnswerError, InputError, PictureError
from clients.locate import Box

__all__ = ["AnswerError", "AsyncClient", "Box", "Client", "InputError", "PictureError"]
