"""Options that several commands have."""

from typing import Annotated

import typer

StoreOption = Annotated[str | None, typer.Option(help="Local path or s3://bucket/prefix. Default: var/store.")]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object on standard output, nothing else there.")]
ProfileOption = Annotated[str, typer.Option(help="Where and with how much: laptop, gpu, cluster or a YAML file.")]
