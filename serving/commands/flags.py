"""The flags that several commands share, each written once."""

from typing import Annotated

import typer

ProfileOption = Annotated[
    str, typer.Option("--profile", "-p", help="The card: a name that `onecard profiles` lists, a YAML path, or auto.")
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        help="A folder, a Hub id, a YAML path, or a name that `onecard profiles` lists. [the profile's]",
    ),
]
PortOption = Annotated[int, typer.Option("--port", min=1, max=65535, help="The server's port.")]
CardsOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=1024,
        envvar="ONECARD_CARDS",
        help="How many GPUs serve, each with a server; else all that are alike.",
    ),
]
MemoryOption = Annotated[
    int | None, typer.Option(min=1, help="What the plan takes for the card's memory, in MiB. [the profile's]")
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
UrlOption = Annotated[
    str | None,
    typer.Option(
        envvar="ONECARD_URL", help="Another server, as http://host:8000; a key is taken from ONECARD_API_KEY."
    ),
]
SystemOption = Annotated[str | None, typer.Option(help="What the model is told before the question.")]
MaxTokensOption = Annotated[int | None, typer.Option(min=1, help="The longest answer. [the server's]")]
VllmArguments = Annotated[list[str] | None, typer.Argument(metavar="[-- VLLM ARGUMENTS]")]
