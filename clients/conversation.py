"""Several questions about the same pictures: what was said, and by whom. The pictures are read and encoded once."""

from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clients.async_client import AsyncClient
    from clients.client import Client


class Conversation:
    """`messages` is what has been said. A question whose answer fails or is broken off leaves no trace in it."""

    def __init__(self, client: "Client", messages: list[Any], options: dict[str, Any]) -> None:
        self._client = client
        self.messages = messages
        self._options = options

    def ask(self, question: str) -> str:
        return "".join(self.stream(question))

    def stream(self, question: str) -> Iterator[str]:
        asked = turn(self.messages, question)
        answer = ""
        for text in self._client.texts(asked, **self._options):
            answer += text
            yield text
        self.messages = [*asked, {"role": "assistant", "content": answer}]


class AsyncConversation:
    """As Conversation, to be awaited."""

    def __init__(self, client: "AsyncClient", messages: list[Any], options: dict[str, Any]) -> None:
        self._client = client
        self.messages = messages
        self._options = options

    async def ask(self, question: str) -> str:
        return "".join([text async for text in self.stream(question)])

    async def stream(self, question: str) -> AsyncIterator[str]:
        asked = turn(self.messages, question)
        answer = ""
        async for text in self._client.texts(asked, **self._options):
            answer += text
            yield text
        self.messages = [*asked, {"role": "assistant", "content": answer}]


def turn(said: list[Any], question: str) -> list[Any]:
    """What was said, and the question; the first one stands in one turn with its pictures, as the models were trained."""
    asked = {"type": "text", "text": question}
    if said and said[-1]["role"] == "user":
        return [*said[:-1], {"role": "user", "content": [*said[-1]["content"], asked]}]
    return [*said, {"role": "user", "content": [asked]}]
