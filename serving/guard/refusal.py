"""Why a request cannot be taken: what the layers that look into a body raise, and one of them turns into an answer."""

from starlette.responses import Response

from serving.guard.respond import refuse


class RefusalError(Exception):
    """A refusal with its status and the parameter that it is about."""

    def __init__(
        self, message: str, *, param: str | None = None, code: str = "invalid_value", status: int = 400
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code
        self.status = status

    def response(self) -> Response:
        kind = "not_found_error" if self.status == 404 else "invalid_request_error"
        return refuse(self.status, self.message, kind, param=self.param, code=self.code)
