"""Commands about who serves: promote, rollback, history, compare, export."""

from pathlib import Path
from typing import Annotated

import typer

from flows.options import JsonOption, StoreOption

app = typer.Typer()

ModelArgument = Annotated[str, typer.Argument(help="The model's name in MLflow. `frostline status` lists them.")]
ReasonOption = Annotated[str | None, typer.Option(help="Why, in words: it goes into the history.")]


@app.command()
def promote(
    model: ModelArgument,
    version: Annotated[str, typer.Argument(help="A version's number, or an alias such as challenger.")],
    reason: ReasonOption = None,
    force: Annotated[bool, typer.Option("--force", help="Even where the gate refused it, or never saw it.")] = False,
    store: StoreOption = None,
    json: JsonOption = False,
) -> None:
    """Make a version champion by hand. Every file of it is compared with what was registered first.

    Examples:

      frostline promote quickstart challenger --reason "better on night pictures"

      frostline promote quickstart 3 --force --reason "the gate's test split is outdated"
    """
    from flows.promotions import promote_command

    promote_command(model, version, reason, force, store, json)


@app.command()
def rollback(
    model: ModelArgument, reason: ReasonOption = None, store: StoreOption = None, json: JsonOption = False
) -> None:
    """Make the former champion champion again; once more goes back to the one before it.

    Example:  frostline rollback quickstart --reason "answers in the wrong language"
    """
    from flows.promotions import rollback_command

    rollback_command(model, reason, store, json)


@app.command()
def history(model: ModelArgument, store: StoreOption = None, json: JsonOption = False) -> None:
    """Every change of champion: when, how, over whom, and why.

    Example:  frostline history quickstart
    """
    from flows.promotions import history_command

    history_command(model, store, json)


@app.command()
def compare(
    model: ModelArgument,
    a: Annotated[str, typer.Argument(help="A version's number, or an alias.")],
    b: Annotated[str, typer.Argument(help="Another one.")],
    store: StoreOption = None,
    json: JsonOption = False,
) -> None:
    """Scores of two versions on the same test rows, and their differences. Evaluates nothing.

    Example:  frostline compare quickstart champion challenger
    """
    from flows.promotions import compare_command

    compare_command(model, a, b, store, json)


@app.command()
def export(
    model_uri: Annotated[str, typer.Argument(help="models:/NAME@champion or models:/NAME/VERSION.")],
    folder: Annotated[Path, typer.Argument(help="A new or empty folder.")],
    store: StoreOption = None,
    json: JsonOption = False,
) -> None:
    """Copy a version out of MLflow: trained parameters, pins of the frozen models, a README that loads them.

    Example:  frostline export models:/quickstart@champion exported/
    """
    from flows.promotions import export_command

    export_command(model_uri, folder, store, json)
