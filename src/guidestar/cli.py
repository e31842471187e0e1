"""The command line."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console

from guidestar.errors import UserError

if TYPE_CHECKING:
    from guidestar.training.recipe_io import LoadedRecipe
    from guidestar.training.runner import Results

app = typer.Typer(
    name="guidestar",
    help="Train with a reference model as the guide, and find out by measurement which way to use it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

RecipeFile = Annotated[Path, typer.Argument(help="The recipe, a YAML file.", show_default=False)]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="Changes to the recipe, as key=value (training.lr=0.01).", show_default=False)
]
Resume = Annotated[bool, typer.Option("--resume", help="Continue what is in the run's folder.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Remove what is in the run's folder first.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show a traceback with an error.")]


@app.command(epilog="Example: guidestar compare recipes/demo.yaml seeds=[0,1]")
def compare(
    recipe: RecipeFile,
    overrides: Overrides = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    debug: Debug = False,
) -> None:
    """Train with every strategy on the same data, seeds and budget, and report which one wins."""
    from guidestar.report import build_report, print_verdict, results_table
    from guidestar.training.recipe_io import load_recipe

    loaded = load_recipe(recipe, overrides or [])
    usable, dropped = loaded.recipe.resolved_strategies()
    console = _console()
    for strategy, reason in dropped.items():
        console.print(f"left out: {strategy}, which {reason}", markup=False, highlight=False)
    results, folder, main_process = _run(loaded, usable, loaded.recipe.seeds, resume, overwrite, console)
    if main_process:
        console.print(results_table(results))
        print_verdict(results, console=console)
        console.print(f"report: {_short(build_report([folder]))}", highlight=False, soft_wrap=True)
    _end_with_failures(folder, usable, loaded.recipe.seeds)


@app.command(epilog="Example: guidestar train recipes/demo.yaml --strategy steer --seed 0 training.lr=0.001")
def train(
    recipe: RecipeFile,
    overrides: Overrides = None,
    strategy: Annotated[
        str | None,
        typer.Option(help="Which strategy; by default steer, or the only one in the recipe.", show_default=False),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(help="Which seed; by default the recipe's first.", show_default=False, min=0, max=2**32 - 1),
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Print the resolved recipe with its sources, and stop.")
    ] = False,
    resume: Resume = False,
    overwrite: Overwrite = False,
    debug: Debug = False,
) -> None:
    """Train with one strategy on one seed."""
    from guidestar.training.explain import explain as explained
    from guidestar.training.recipe_io import load_recipe

    loaded = load_recipe(recipe, overrides or [])
    if explain:
        typer.echo(explained(loaded))
        return
    usable = loaded.recipe.resolved_strategies().usable
    chosen = strategy or (usable[0] if len(usable) == 1 else "steer")
    known = [name for name in usable if name == chosen]
    if not known:
        raise UserError(f"`--strategy` must be one of the recipe's: {', '.join(usable)}. Found {chosen}.")
    seeds = (loaded.recipe.seeds[0] if seed is None else seed,)
    console = _console()
    _, folder, main_process = _run(loaded, known, seeds, resume, overwrite, console)
    _end_with_failures(folder, known, seeds)
    if main_process:
        console.print(f"written to {_short(folder / f'seed-{seeds[0]}' / known[0])}", highlight=False, soft_wrap=True)


@app.command(epilog="Example: guidestar score recipes/demo.yaml --resume")
def score(
    recipe: RecipeFile,
    overrides: Overrides = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    debug: Debug = False,
) -> None:
    """Fill the reference store: what the reference says about each training sample or pair."""
    from guidestar.progress import BarDisplay
    from guidestar.training.recipe_io import load_recipe
    from guidestar.training.runner import Options, Run

    loaded = load_recipe(recipe, overrides or [])
    if not loaded.recipe.reference.has_model:
        raise UserError(
            "`reference.model` is needed to score, with `reference.weights` or `reference.fit`. Found none."
        )
    console = _console()
    with BarDisplay(console, 1) as display:
        run = Run(loaded, Options(resume=resume, overwrite=overwrite, display=display))
        stores = run.score(loaded.recipe.seeds)
    for store in stores:
        console.print(f"store: {_short(store)}", highlight=False, soft_wrap=True)


@app.command(epilog="Example: guidestar evaluate runs/demo data.test.path=other.npz")
def evaluate(
    run: Annotated[Path, typer.Argument(help="A run's folder.", show_default=False)],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Changes to the data, as key=value (data.test.path=new.npz).", show_default=False),
    ] = None,
    debug: Debug = False,
) -> None:
    """Evaluate every trained model of a run again, on its test data or on other data."""
    from guidestar.report import results_table
    from guidestar.training.reevaluate import evaluate_run

    results, written = evaluate_run(run, overrides or [])
    console = _console()
    console.print(results_table(results))
    console.print(f"written to {_short(written)}", highlight=False, soft_wrap=True)


@app.command(epilog="Example: guidestar report runs/fashion runs/cifar10 --out report.html")
def report(
    runs: Annotated[list[Path], typer.Argument(help="One or more run folders.", show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option(
            help="The HTML file; by default report.html in the run's folder, or above it for several.",
            show_default=False,
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """Write the report of one or more runs as one HTML file."""
    from guidestar.report import build_report

    _console().print(f"report: {_short(build_report(runs, out))}", highlight=False, soft_wrap=True)


@app.command(epilog="Example: guidestar index 'shards/*.tar'")
def index(
    patterns: Annotated[
        list[str], typer.Argument(help="Tar shards: paths, with * and {00000..00012}.", show_default=False)
    ],
    caption: Annotated[
        list[str] | None,
        typer.Option(help="A key of the captions in each .json; by default .txt, else caption.", show_default=False),
    ] = None,
    on_error: Annotated[str, typer.Option(help="What to do with a faulty sample: raise, or skip.")] = "raise",
    debug: Debug = False,
) -> None:
    """Index tar shards of image-text pairs: write beside each what gives its samples stable rows."""
    from guidestar.data.pairs.index import index_shards
    from guidestar.progress import BarDisplay

    if on_error not in ("raise", "skip"):
        raise UserError(f"`--on-error` must be raise or skip. Found {on_error}.")
    console = _console()
    with BarDisplay(console, 1) as display:
        show = display.begin("indexing")
        written = index_shards(
            patterns,
            captions=caption or (),
            on_error="raise" if on_error == "raise" else "skip",
            progress=lambda done, total: show(done, total, None),
        )
    console.print(f"{len(written)} shards are indexed", highlight=False)


@app.command(epilog="Example: guidestar export runs/flickr8k --strategy steer --out clip")
def export(
    run: Annotated[Path, typer.Argument(help="A run's folder.", show_default=False)],
    out: Annotated[Path, typer.Option(help="The folder to write; new or empty.", show_default=False)],
    strategy: Annotated[
        str | None, typer.Option(help="Which strategy; by default steer, or else the first.", show_default=False)
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Which seed; by default the recipe's first.", show_default=False, min=0)
    ] = None,
    debug: Debug = False,
) -> None:
    """Write a trained model for use elsewhere: a CLIP folder for Transformers, or plain safetensors."""
    from guidestar.training.exporting import export_run

    _console().print(f"written to {_short(export_run(run, out, strategy=strategy, seed=seed))}", highlight=False)


@app.command(epilog="Example: guidestar scaling r.yaml --sizes model.options.width=16,32 --samples 500,1000")
def scaling(
    recipe: RecipeFile,
    overrides: Overrides = None,
    sizes: Annotated[
        list[str] | None,
        typer.Option(help="key=value,value,... of the model; several change together.", show_default=False),
    ] = None,
    samples: Annotated[str, typer.Option(help="Numbers of training samples, with commas.", show_default=False)] = "",
    strategies: Annotated[str, typer.Option(help="What to train, with commas.")] = "erm,steer",
    metric: Annotated[
        str | None, typer.Option(help="The error is 1 less this; by default the accuracy.", show_default=False)
    ] = None,
    index: Annotated[
        int | None, typer.Option(help="Run only this cell, from 0: for a cluster's array.", show_default=False)
    ] = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    debug: Debug = False,
) -> None:
    """Run a grid of model sizes and training samples, and fit a law of error against compute."""
    from guidestar.progress import BarDisplay
    from guidestar.report.scaling_page import build_scaling
    from guidestar.training.runner import Options
    from guidestar.training.scaling import Grid, parse_samples, parse_sizes

    grid = Grid(recipe, overrides or [], parse_sizes(sizes or []), parse_samples(samples), strategies.split(","))
    cells = grid.cells if index is None else [grid.cell(index)]
    console = _console()
    with BarDisplay(console, len(cells) * len(grid.strategies)) as display:
        options = Options(resume=resume, overwrite=overwrite, display=display)
        records = [record for cell in cells for record in grid.run(cell, options)]
    if index is None:
        written = grid.collect(records, metric)
        if _process() == 0:
            console.print(f"written to {_short(build_scaling(written.parent))}", highlight=False, soft_wrap=True)


@app.command(epilog="Example: guidestar where 6.118")
def where(
    query: Annotated[str, typer.Argument(help="An equation (6.118), an algorithm ('Alg. 24') or a name (ABSGD).")],
    debug: Debug = False,
) -> None:
    """Say where an equation or algorithm is implemented and tested."""
    from guidestar.equations import find

    entries = find(query)
    if not entries:
        raise UserError(f"nothing cites {query!r}. See docs/equations.md for all that is there.")
    for entry in entries:
        typer.echo(str(entry))


@app.command(epilog="Example: guidestar cite DRRho KL")
def cite(
    names: Annotated[list[str], typer.Argument(help="Public classes that you used.")],
    debug: Debug = False,
) -> None:
    """Print the BibTeX of what was used."""
    from guidestar.citations import cite as cited

    typer.echo(cited(names))


def _run(
    loaded: LoadedRecipe,
    strategies: Sequence[str],
    seeds: Sequence[int],
    resume: bool,
    overwrite: bool,
    console: Console,
) -> tuple[Results, Path, bool]:
    from guidestar.progress import BarDisplay
    from guidestar.training.runner import Options, Run

    with BarDisplay(console, len(strategies) * len(seeds)) as display:
        run = Run(loaded, Options(resume=resume, overwrite=overwrite, display=display))
        results = run.compare(strategies, seeds)
    return results, run.folder, run.engine.is_main_process


def _end_with_failures(folder: Path, strategies: Sequence[str], seeds: Sequence[int]) -> None:
    from guidestar.training.runner import read_result

    results = [folder / f"seed-{seed}" / strategy / "result.json" for strategy in strategies for seed in seeds]
    failed = [path for path in results if read_result(path).get("status") != "finished"]
    if failed:
        raise UserError(f"{len(failed)} of {len(results)} trainings failed; see {_short(failed[0])}.")


def _console() -> Console:
    """Where results are printed: by the first process of several only."""
    return Console(quiet=_process() > 0)


def _process() -> int:
    # Known before the processes have found each other; both torchrun and `accelerate launch` set it.
    return int(os.environ.get("RANK", "0"))


def _short(path: Path) -> Path:
    absolute, here = path.absolute(), Path.cwd()
    return absolute.relative_to(here) if absolute.is_relative_to(here) else absolute


def main() -> NoReturn:
    """Run the command line.

    An error that a user can put right is a message and exit code 1; a stopped run ends with 128 and the signal's number.
    """
    from guidestar.training.interrupt import Interrupted

    debug = "--debug" in sys.argv
    try:
        app()
    except Interrupted as stopped:
        if _process() == 0:
            typer.echo(str(stopped), err=True)
        sys.exit(128 + stopped.number)
    except (UserError, OSError, ImportError, TypeError, IndexError) as error:
        if debug:
            raise
        who = f"process {_process()}: " if _process() else ""
        typer.echo(f"{who}error: {_message(error)}", err=True)
        sys.exit(1)
    sys.exit(0)


def _message(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return str(error)


if __name__ == "__main__":
    main()
