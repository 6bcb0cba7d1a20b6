"""The `frostline` command. Heavy imports are inside the commands, so that --help answers at once."""

import os
import sys
import traceback
from pathlib import Path
from typing import Annotated

import typer

from flows import promotion_cli, serve_cli, stack_cli, watch_cli
from flows.options import JsonOption, ProfileOption, StoreOption
from infra.errors import FrostlineError, Interrupted

MAX_CAUSES = 50
STOPPED = 130
"""Exit code after Ctrl-C, as shells have it: 128 and the signal's number."""

app = typer.Typer(
    name="frostline",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Retrain vision-language models on a schedule: ingest → featurize → train → evaluate → register.",
    epilog="Start with:  [bold]frostline run quickstart[/]   then   [bold]frostline status[/].   "
    "[bold]--debug[/] anywhere shows the traceback of an error.",
)

RecipeArgument = Annotated[str, typer.Argument(help="A shipped recipe (quickstart) or the path of a YAML file.")]
SetOption = Annotated[
    list[str], typer.Option("--set", help="path.to.key=value in the recipe; profile.path.to.key=value in the profile.")
]
UntilOption = Annotated[str | None, typer.Option(help="Stop after this step.")]
ForceOption = Annotated[list[str], typer.Option(help="Make this step's output anew. May be given several times.")]


@app.command()
def run(
    recipe: RecipeArgument = "quickstart",
    profile: ProfileOption = "laptop",
    store: StoreOption = None,
    set_: SetOption = [],  # noqa: B006  typer reads it once
    until: UntilOption = None,
    force: ForceOption = [],  # noqa: B006
    json: JsonOption = False,
) -> None:
    """Run a recipe to a registered model. What is there already is reused; what was begun is resumed.

    Examples:

      frostline run quickstart

      frostline run my_recipe.yaml --set training.learning_rate=0.0005

      frostline run my_recipe.yaml --store s3://bucket/prefix --profile gpu --json
    """
    from flows.asked import Asked
    from flows.commands import run_command

    run_command(Asked(recipe, profile, store, tuple(set_)), until, frozenset(force), json)


@app.command()
def plan(
    recipe: RecipeArgument = "quickstart",
    profile: ProfileOption = "laptop",
    store: StoreOption = None,
    set_: SetOption = [],  # noqa: B006
    until: UntilOption = None,
    json: JsonOption = False,
) -> None:
    """Say which steps would run or be reused, and why. Starts no engine and writes nothing.

    Example:  frostline plan quickstart --set training.learning_rate=0.0005
    """
    from flows.asked import Asked
    from flows.commands import plan_command

    plan_command(Asked(recipe, profile, store, tuple(set_)), until, json)


@app.command()
def watch(
    recipe: RecipeArgument = "quickstart",
    profile: ProfileOption = "laptop",
    store: StoreOption = None,
    set_: SetOption = [],  # noqa: B006
    json: JsonOption = False,
) -> None:
    """Say whether the recipe's model calls for a retrain, and why: new rows, age, drift, a failing slice.

    Reads today's rows and what the champion makes of them; trains and promotes nothing. The deployment
    `watch/daily` does the same, and starts the retrain.

    Examples:

      frostline watch quickstart

      frostline watch my_recipe.yaml --set watch.new_examples=1000 --set watch.champion_age_days=30 --json
    """
    from flows.asked import Asked
    from flows.watching import watch_command

    watch_command(Asked(recipe, profile, store, tuple(set_)), json)


@app.command()
def status(store: StoreOption = None, json: JsonOption = False) -> None:
    """Outputs, models, what was saved, who waits or works, newest decisions and failures."""
    from flows.commands import status_command

    status_command(store, json)


@app.command()
def caption(
    model_uri: Annotated[str, typer.Argument(help="models:/NAME@champion or models:/NAME/VERSION.")],
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    store: StoreOption = None,
    json: JsonOption = False,
) -> None:
    """Describe images with a registered model.

    Example:  frostline caption models:/quickstart@champion picture.png
    """
    from flows.serving import caption_command

    caption_command(model_uri, images, store, json)


@app.command()
def ask(
    model_uri: Annotated[str, typer.Argument(help="models:/NAME@champion or models:/NAME/VERSION.")],
    image: Annotated[Path, typer.Argument(help="An image file.")],
    question: Annotated[str, typer.Argument(help="A question about it.")],
    store: StoreOption = None,
    json: JsonOption = False,
) -> None:
    """Ask a registered model about an image.

    Example:  frostline ask models:/quickstart@champion picture.png "how many digits are there?"
    """
    from flows.serving import ask_command

    ask_command(model_uri, image, question, store, json)


@app.command()
def evaluate(
    model_uri: Annotated[str, typer.Argument(help="models:/NAME@champion or models:/NAME/VERSION.")],
    source: Annotated[
        list[str], typer.Option(help="A source as in a recipe, or a .yaml file with one. May be given several times.")
    ],
    set_: Annotated[
        list[str], typer.Option("--set", help="key=value of the recipe's section `evaluation`, as max_new_tokens=16.")
    ] = [],  # noqa: B006
    profile: ProfileOption = "laptop",
    store: StoreOption = None,
    json: JsonOption = False,
) -> None:
    """Evaluate a registered model on any rows, without a training. Where a source names splits, on its test rows.

    Examples:

      frostline evaluate models:/quickstart@champion --source '{kind: jsonl, path: rows.jsonl, images: photos}'

      frostline evaluate models:/quickstart/3 --source holiday_photos.yaml --set max_test_images=500 --json
    """
    from flows.evaluating import evaluate_command

    evaluate_command(model_uri, source, set_, profile, store, json)


app.add_typer(promotion_cli.app)
app.add_typer(serve_cli.app)
app.add_typer(stack_cli.app)
app.add_typer(watch_cli.app)


@app.command()
def verify(
    store: StoreOption = None,
    repair: Annotated[
        bool, typer.Option(help="Remove what is damaged, so that a run makes exactly that again.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Read everything committed again and compare digests. Exit code 4 where anything is missing or damaged."""
    from flows.maintenance import verify_command

    verify_command(store, repair, json)


@app.command()
def gc(
    store: StoreOption = None,
    grace: Annotated[str, typer.Option(help="Leave alone what is younger: 7d, 12h, 30m. Longer than any run.")] = "7d",
    delete: Annotated[bool, typer.Option("--delete", help="Really remove it; without this it is only listed.")] = False,
    json: JsonOption = False,
) -> None:
    """List, and with --delete remove, what nothing refers to: old parts, leftovers of killed runs.

    Example:  frostline gc --grace 30d --delete
    """
    from flows.maintenance import gc_command

    gc_command(store, grace, delete, json)


@app.command()
def forget(
    images: Annotated[list[str], typer.Argument(help="Image ids, or picture files with the images to forget.")],
    store: StoreOption = None,
    json: JsonOption = False,
) -> None:
    """Erase images and what was made of them: rows, features, predictions, cached files. They do not come back.

    Trained weights stay; the next run trains without the images. Let nothing else run on the store meanwhile.

    Examples:

      frostline forget photo.jpg

      frostline forget 3b5d…64 hexadecimal digits --store s3://bucket/prefix
    """
    from flows.maintenance import forget_command

    forget_command(images, store, json)


@app.command()
def explain(
    output: Annotated[str, typer.Argument(help="STEP/FINGERPRINT, the start of a fingerprint, or RECIPE/STEP.")],
    store: StoreOption = None,
    json: JsonOption = False,
) -> None:
    """Say when and how an output was made, what had changed, and what it was made from.

    Example:  frostline explain quickstart/featurize
    """
    from flows.maintenance import explain_command

    explain_command(output, store, json)


def main() -> None:
    """Entry point: one sentence per error; a traceback only with --debug."""
    arguments = sys.argv[1:]
    debug = "--debug" in arguments
    person = os.fdopen(os.dup(2), "w")  # a run sends the process's own streams to its log
    try:
        code = app(args=[argument for argument in arguments if argument != "--debug"], standalone_mode=False)
        if code == STOPPED:  # typer's own answer to Ctrl-C
            raise KeyboardInterrupt
    except (Exception, KeyboardInterrupt) as error:
        if debug:
            traceback.print_exception(error, file=person)
        sentence, code = _told(_origin(error))
        print(f"frostline: {sentence}", file=person, flush=True)
    sys.exit(code if isinstance(code, int) else 0)


def _origin(error: BaseException) -> BaseException:
    """What the user asked for, where an engine stumbled over it: Ctrl-C reaches the engines' servers too."""
    link: BaseException | None = error
    for _ in range(MAX_CAUSES):
        if isinstance(link, Interrupted | KeyboardInterrupt):
            return link
        if link is None:
            break
        link = link.__cause__ or link.__context__
    return error


def _told(error: BaseException) -> tuple[str, int]:
    """(sentence, exit code)."""
    if isinstance(error, FrostlineError):
        return str(error), error.exit_code
    if isinstance(error, typer.Abort | KeyboardInterrupt):
        return "stopped. Start again to go on from there.", STOPPED
    if type(error).__name__ == "NoArgsIsHelpError":  # the help was shown
        return "name a command.", 2
    if hasattr(error, "format_message"):  # click's own: a missing argument, an unknown option
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "frostline"
        told = error.format_message().rstrip(".")
        return f"{told}{'' if told.endswith('?') else '.'} Try {command} --help.", 2
    reason = str(error).strip().splitlines()[0] if str(error).strip() else "no message"
    return (
        f"{type(error).__name__}: {reason}. This is a fault of Frostline or of an engine; "
        "start again with --debug for the traceback; work done so far is kept."
    ), 1


if __name__ == "__main__":
    main()
