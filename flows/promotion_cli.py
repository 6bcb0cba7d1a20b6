"""Commands about who serves: promote, rollback, approve, refuse, restore, history, compare, export."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from flows.options import JsonOption, StoreOption
from infra.errors import ConfigError

app = typer.Typer()

ModelArgument = Annotated[str, typer.Argument(help="The model's name in MLflow. `frostline status` lists them.")]
WaitingArgument = Annotated[str, typer.Argument(help="The version that waits: its number, or an alias.")]
QuantizeOption = Annotated[
    Literal["int8"] | None, typer.Option(help="Make the language model smaller; what is served then runs on CPUs.")
]
MaxLossOption = Annotated[
    float | None,
    typer.Option(min=0.0, help="With --quantize: what the primary metric may lose, in its own unit. Default: 0.01."),
]
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
def approve(
    model: ModelArgument,
    version: WaitingArgument = "challenger",
    reason: ReasonOption = None,
    store: StoreOption = None,
    json: JsonOption = False,
) -> None:
    """Make champion what waits for approval: it passed the gate, and the recipe says `promotion.approval: required`.

    Refused where another champion serves by now than the gate compared it with.

    Example:  frostline approve quickstart 4 --reason "looked at 50 answers"
    """
    from flows.promotions import approve_command

    approve_command(model, version, reason, store, json)


@app.command()
def refuse(
    model: ModelArgument,
    version: WaitingArgument = "challenger",
    reason: ReasonOption = None,
    store: StoreOption = None,
    json: JsonOption = False,
) -> None:
    """Keep from serving what waits for approval. It stays registered.

    Example:  frostline refuse quickstart 4 --reason "invents names"
    """
    from flows.promotions import refuse_command

    refuse_command(model, version, reason, store, json)


@app.command()
def restore(model: ModelArgument, store: StoreOption = None, json: JsonOption = False) -> None:
    """Register again, from the store alone, what MLflow lost: each version with its files, then the aliases.

    Example:  frostline restore quickstart --store s3://bucket/prefix
    """
    from flows.promotions import restore_command

    restore_command(model, store, json)


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
    quantize: QuantizeOption = None,
    max_loss: MaxLossOption = None,
    store: StoreOption = None,
    json: JsonOption = False,
) -> None:
    """Copy a version out of MLflow: trained parameters, pins of the frozen models, a README that loads them.

    With --quantize int8 the folder holds a smaller language model too, for CPUs. It is evaluated on the version's own
    test rows, told beside the original, and registered as NAME-int8 only where it passes the recipe's gate and surely
    loses less than --max-loss of the primary metric. Exit code 1: it is in the folder, and not registered.

    Examples:

      frostline export models:/quickstart@champion exported/

      frostline export models:/quickstart@champion smaller/ --quantize int8 --max-loss 0.005
    """
    if quantize is not None:
        from flows.quantise_command import MAX_LOSS, quantise_command

        quantise_command(model_uri, folder, MAX_LOSS if max_loss is None else max_loss, store, json)
        return
    if max_loss is not None:
        raise ConfigError("--max-loss was found without --quantize; expected both. Add --quantize int8.")
    from flows.promotions import export_command

    export_command(model_uri, folder, store, json)
