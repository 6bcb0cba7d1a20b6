"""The command `frostline serve`."""

from pathlib import Path
from typing import Annotated

import typer

from flows.options import JsonOption, ProfileOption, StoreOption

app = typer.Typer()


@app.command()
def serve(  # noqa: PLR0913  typer declares options as parameters
    model_uri: Annotated[
        str,
        typer.Argument(help="models:/NAME@champion follows the alias; models:/NAME/VERSION stays with one version."),
    ],
    host: Annotated[str, typer.Option(help="Where to listen. Anything but loopback needs a token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    token_file: Annotated[
        Path | None,
        typer.Option(help="A file with the token that clients must send. Or set FROSTLINE_SERVE_TOKEN."),
    ] = None,
    set_: Annotated[
        list[str],
        typer.Option(
            "--set",
            help="key=value: limits.max_body_bytes, replicas.max_replicas, replicas.threads, replicas.max_batch, "
            "poll_seconds, decoders … ; profile.ray.address=… in the profile.",
        ),
    ] = [],  # noqa: B006  typer reads it once
    index: Annotated[
        str | None,
        typer.Option(help="Fingerprint of the featurize output that /v1/similar looks in. Default: the model's own."),
    ] = None,
    profile: ProfileOption = "laptop",
    store: StoreOption = None,
    json: JsonOption = False,
) -> None:
    """Serve a registered model over HTTP, on Ray Serve: captions, answers, labels, similar images, a page to try.

    When the alias moves, the new version is verified and loaded beside the old one, then answers instead of it; no
    request is dropped. Stop it with Ctrl-C or SIGTERM: what was begun is finished.

    Examples:

      frostline serve models:/quickstart@champion

      FROSTLINE_SERVE_TOKEN=… frostline serve models:/quickstart@champion --host 0.0.0.0 --set replicas.max_replicas=4

      curl -F image=@picture.png http://127.0.0.1:8000/v1/caption
    """
    from flows.serve_command import Listening, serve_command

    serve_command(model_uri, Listening(host, port, token_file, index), set_, profile, store, json)
