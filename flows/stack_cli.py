"""Commands about the servers on this machine: up, down, reap, notify, doctor."""

from typing import Annotated

import typer

from flows.options import JsonOption, ProfileOption, StoreOption

app = typer.Typer()


@app.command()
def up(
    postgres: Annotated[
        str | None,
        typer.Option(
            envvar="FROSTLINE_POSTGRES_URL",
            help="postgresql://USER:PASSWORD@HOST:PORT; databases are made there. Better by its variable: arguments "
            "are seen by others. Default: SQLite under var.",
            show_envvar=True,
        ),
    ] = None,
    prefect_port: Annotated[int, typer.Option(min=1, max=65535, help="Of the Prefect server.")] = 4200,
    mlflow_port: Annotated[int, typer.Option(min=1, max=65535, help="Of the MLflow server.")] = 5000,
    json: JsonOption = False,
) -> None:
    """Bring up Prefect, a worker with everything deployed, MLflow and the reaper, on loopback. What runs already stays.

    Call it in the checkout: the deployments are those of its prefect.yaml.

    Examples:

      frostline up

      FROSTLINE_POSTGRES_URL=postgresql://frostline:…@127.0.0.1:5432 frostline up --mlflow-port 5001
    """
    from flows.stack import Ports
    from flows.stack_commands import up_command

    up_command(Ports(prefect_port, mlflow_port), postgres, json)


@app.command()
def down(json: JsonOption = False) -> None:
    """Stop exactly what `frostline up` started here, flow runs included: they go on where they were at the next one.

    Example:  frostline down
    """
    from flows.stack_commands import down_command

    down_command(json)


@app.command()
def reap(
    every: Annotated[float | None, typer.Option(min=1, help="Seconds between passes, for ever. Default: once.")] = None,
    store: StoreOption = None,
    json: JsonOption = False,
) -> None:
    """Mark flow runs whose process died or hangs as crashed in Prefect, and free the claims they held.

    `frostline up` keeps one running. Elsewhere, one is enough for a store.

    Examples:

      frostline reap

      frostline reap --every 30 --store s3://bucket/prefix
    """
    from flows.stack_commands import reap_command

    reap_command(every, store, json)


@app.command()
def notify(
    block: Annotated[str, typer.Argument(help="A notification block of Prefect, as TYPE/NAME.")],
    json: JsonOption = False,
) -> None:
    """Have Prefect send failures, refusals, waits for approval, promotions and rollbacks through a notification block.

    Makes one automation for each, or changes it where it is there.

    Example:  frostline notify slack-webhook/team
    """
    from flows.automations import notify_command

    notify_command(block, json)


@app.command()
def doctor(profile: ProfileOption = "laptop", store: StoreOption = None, json: JsonOption = False) -> None:
    """Check this machine, the settings and the servers, and say the remedy for each finding. Exit code 5 on a fault.

    Example:  frostline doctor --profile gpu --store s3://bucket/prefix
    """
    from flows.stack_commands import doctor_command

    doctor_command(profile, store, json)
