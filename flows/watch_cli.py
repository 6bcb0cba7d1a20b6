"""Commands that show a pipeline over time: overview and metrics."""

from pathlib import Path
from typing import Annotated

import typer

from flows.options import JsonOption, StoreOption

app = typer.Typer()


@app.command()
def overview(
    store: StoreOption = None,
    out: Annotated[Path, typer.Option(help="The file to write.")] = Path("overview.html"),
    json: JsonOption = False,
) -> None:
    """Write one HTML page of the pipeline over time: data growth, encodes and accelerator seconds saved, quality of
    each champion with intervals, promotions, rollbacks, approvals and refusals.

    Counted is what the store holds: images and replies that an output took over. Steps that were reused whole write
    nothing, and are counted where PREFECT_API_URL names the server that saw them; a run that finds everything done
    is counted nowhere.

    Examples:

      frostline overview

      frostline overview --store s3://bucket/prefix --out /srv/www/overview.html
    """
    from flows.overview import overview_command

    overview_command(store, out, json)


@app.command()
def metrics(
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 leaves it to the system.")] = 9464,
    host: Annotated[
        str, typer.Option(help="Loopback by default: who may read it is for a network to say.")
    ] = "127.0.0.1",
    store: StoreOption = None,
) -> None:
    """Serve Prometheus metrics of the pipeline at /metrics, read from the store at each scrape (15 s are kept).

    The latency of answers is served by `frostline serve` itself. One of these is enough for a store.

    Examples:

      frostline metrics

      PREFECT_API_URL=http://127.0.0.1:4200/api frostline metrics --port 9500 --store s3://bucket/prefix
    """
    from flows.metrics import metrics_command

    metrics_command(store, host, port)
