"""`longreach eval`: how good answers are and what they take, in every way of reading, in one
run."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from longreach.cli.output import (
    DeviceOption,
    JsonOption,
    StoreOption,
    at_least_one,
    check_at_least_one,
    dtype_checked,
    emit,
    memory_said,
    note,
    table,
)

if TYPE_CHECKING:
    from longreach.evals.suites.choice import Choice


def evaluate(
    suite: str = typer.Argument(help="niah, ruler, babilong, docqa or perplexity."),
    target: str = typer.Argument(
        metavar="MODEL|CORPUS",
        help="Hub id, folder, .gguf file or 'smollm2'; of docqa also a corpus of the store.",
    ),
    out: Path = typer.Option(
        ..., "--out", metavar="RUN", help="Folder of the run; the same command resumes it."
    ),
    lengths: str = typer.Option(
        "4096", "--lengths", help="Tokens of prompt and answer: 2048,4096. Not of docqa."
    ),
    samples: int | None = typer.Option(
        None,
        "--samples",
        help=(
            "Samples of each task and length. [default: niah 1 a depth; ruler, babilong 20; others"
            " all]"
        ),
    ),
    seed: int = typer.Option(42, "--seed", min=0, help="Seed of everything that is drawn."),
    tasks: str | None = typer.Option(
        None, "--tasks", help="Tasks of the suite: vt,cwe. [default: all that there are data for]"
    ),
    readers: str | None = typer.Option(
        None,
        "--readers",
        help=(
            "full, hybrid, sink-window, kvpress[:PRESS:RATIO]; of docqa also none, truncated, bm25,"
            " mean-pool, compressed, mixed, and none, truncated, bm25 with +adapter behind."
            " [default: by the suite]"
        ),
    ),
    data: list[str] = typer.Option(
        [],
        "--data",
        metavar="[NAME=]PATH",
        help=(
            "ruler: qa_1=FILE, qa_2=FILE. babilong: babi=FOLDER. docqa: fairytaleqa=FOLDER,"
            " qmsum=FILE, longbench=FOLDER or a Hub id, ... perplexity: held-out texts, as extend"
            " reads them. Several times."
        ),
    ),
    haystack: str | None = typer.Option(
        None,
        "--haystack",
        help="Prose of niah, ruler, babilong. [default: a novel that comes with longreach]",
    ),
    depths: int = typer.Option(11, "--depths", min=1, help="niah: depths of the needle."),
    questions: Path | None = typer.Option(
        None, "--questions", help="docqa: JSON lines, as study reads them."
    ),
    documents: list[Path] = typer.Option(
        [], "--documents", help="docqa: the documents that they are about; may be repeated."
    ),
    split: str | None = typer.Option(
        None, "--split", help="docqa: split of the data. [default: the one for validation]"
    ),
    max_new_tokens: int | None = typer.Option(
        None, "--max-new-tokens", help="docqa: length of an answer. [default: by task]"
    ),
    compressor: str | None = typer.Option(
        None,
        "--compressor",
        help="docqa: compressor, named as in `ingest`. [default: by the model]",
    ),
    ratio: int | None = typer.Option(
        None, "--ratio", help="docqa: tokens a vector, as in `ingest`."
    ),
    adapter: Path | None = typer.Option(
        None,
        "--adapter",
        exists=True,
        file_okay=False,
        help="docqa: PEFT folder. [default: the corpus's own]",
    ),
    beyond_window: bool = typer.Option(
        False, "--beyond-window", help="Read lengths that the model was not made for."
    ),
    batch_size: int = typer.Option(
        1, "--batch-size", callback=at_least_one, help="Samples answered together."
    ),
    dtype: str | None = typer.Option(
        None,
        "--dtype",
        callback=dtype_checked,
        help="dtype of the model. [default: bfloat16; cpu: float32]",
    ),
    store: Path | None = StoreOption,
    device: str | None = DeviceOption,
    as_json: bool = JsonOption,
) -> None:
    """Ask the questions of a suite in several ways of reading, and score the answers.

    Predictions go to RUN/predictions.jsonl as they come, scores with 95% intervals to
    RUN/scores.json. Stopped anywhere, the same command goes on, and no question is asked twice.
    docqa compares, at equal positions: nothing, the ends of the document, BM25 passages, mean
    pooling, compressed, mixed; and the whole document where it fits.

    Example: longreach eval ruler smollm2 --lengths 2048,4096 --tasks niah_single_1,vt --samples 10
    --out runs/ruler
    """
    from longreach.compressors.registry import check_reference
    from longreach.evals.suites.choice import DOCQA, PERPLEXITY, Choice, check_readers
    from longreach.training.common.run import refuse_foreign

    refuse_foreign(out)  # before a model is loaded for nothing
    choice = Choice(
        suite,
        tasks=_names(tasks),
        lengths=_lengths(lengths),
        samples=samples,
        seed=seed,
        depths=depths,
        haystack=haystack,
        data={} if suite == PERPLEXITY else _data(data),
        split=split,
        max_new_tokens=max_new_tokens,
    )
    names = _names(readers)
    check_readers(names, suite)
    if compressor is not None:
        check_reference(compressor)
    _check_options(choice, questions, documents, data, compressor, ratio, adapter)
    check_at_least_one("ratio", ratio)
    with memory_said("--lengths or --batch-size", as_json):
        if suite == DOCQA:
            from longreach.cli.eval_documents import Options, read_documents

            options = Options(
                questions,
                documents,
                compressor,
                ratio,
                adapter,
                beyond_window=beyond_window,
                batch_size=batch_size,
                dtype=dtype,
                store=store,
                device=device,
            )
            scores = read_documents(choice, target, names, out, options)
        else:
            scores = _read_texts(
                choice, target, names, out, data, beyond_window, batch_size, dtype, device
            )
    if as_json:
        emit({"run": str(out), "suite": suite, **scores})
    else:
        print_scores(scores)


def _read_texts(
    choice: "Choice",
    target: str,
    names: tuple[str, ...],
    out: Path,
    data: list[str],
    beyond_window: bool,
    batch_size: int,
    dtype: str | None,
    device: str | None,
) -> dict[str, Any]:
    """Asks one model, in several ways of attending, a suite that is read whole."""
    from longreach.evals.run import runner
    from longreach.evals.suites import perplexity
    from longreach.evals.suites.choice import PERPLEXITY, default_readers
    from longreach.evals.suites.registry import check_window, name_of, samples_of, whole_readers
    from longreach.models.device import check_device
    from longreach.models.loading.load import load

    if device:
        check_device(device)
    model, tokenizer = load(target, device=device, dtype=dtype)
    check_window(choice, model, beyond=beyond_window)
    names = names or default_readers(choice.suite, mean_pool=False, adapter=False)
    readers = whole_readers(names, model, tokenizer, "read" if beyond_window else "refuse")
    settings = {"model": name_of(target)} | choice.settings()
    common: dict[str, Any] = {
        "settings": settings,
        "seed": choice.seed,
        "arguments": sys.argv[1:],
        "say": note,
    }
    if choice.suite == PERPLEXITY:
        texts = perplexity.texts(
            data, tokenizer, max(choice.lengths), samples=choice.samples, say=note
        )
        return perplexity.measure(texts, readers, out, **common)
    samples = samples_of(choice, tokenizer, note)
    return runner.evaluate(
        samples,
        readers,
        out,
        suite=choice.suite,
        batch_size=batch_size,
        device=model.device,
        **common,
    )


def print_scores(scores: dict[str, Any]) -> None:
    """Prints what is in scores.json as a table."""
    from longreach.evals.report.parts import has_interval, too_few

    rows = scores["rows"]
    if rows and "bucket" in rows[0]:
        spans = (
            (
                row["reader"],
                f"{row['bucket'][0]:,}-{row['bucket'][1]:,}",
                f"{row['perplexity']:.2f}",
                row["tokens"],
            )
            for row in rows
        )
        table(("reader", "positions", "perplexity", "tokens"), spans)
        return
    cells = [
        (
            row["reader"],
            row["task"],
            row["length"] or "",
            f"{row['score']:.1f}",
            f"[{row['low']:.1f}, {row['high']:.1f}]" if has_interval(row) else too_few(row),
            row["samples"],
            round(row["positions"]),
            f"{row['first_token_seconds']:.2f}",
            f"{row['kv_bytes'] / 2**20:.1f}",
        )
        for row in rows
    ]
    head = (
        "reader",
        "task",
        "length",
        "score",
        "95%",
        "samples",
        "positions",
        "first token s",
        "KV MiB",
    )
    table(head, cells)


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in (text or "").split(",") if name.strip())


def _lengths(text: str) -> tuple[int, ...]:
    from longreach.errors import UsageError

    try:
        return tuple(int(part) for part in _names(text))
    except ValueError as error:
        raise UsageError(
            f"--lengths is '{text}'; give numbers of tokens such as 2048,4096."
        ) from error


def _data(given: list[str]) -> dict[str, str]:
    from longreach.errors import UsageError

    found: dict[str, str] = {}
    for one in given:
        name, equals, path = one.partition("=")
        if not equals or not name or not path or name in found:
            raise UsageError(
                f"--data is '{one}'; give NAME=PATH, each name once, such as fairytaleqa=FOLDER."
            )
        found[name] = path
    return found


def _check_options(
    choice: "Choice", questions: Any, documents: Any, data: Any, *of_documents: Any
) -> None:
    """Refuses options that would do nothing, and data that are missing."""
    from longreach.errors import UsageError
    from longreach.evals.suites.choice import DOCQA, PERPLEXITY

    suite, of_docqa = choice.suite, (*of_documents, choice.split, choice.max_new_tokens)
    if suite != DOCQA and (questions or documents or any(one is not None for one in of_docqa)):
        raise UsageError(
            "--questions, --documents, --compressor, --ratio, --adapter, --split and"
            " --max-new-tokens belong to docqa: leave them out."
        )
    if suite in (DOCQA, PERPLEXITY) and choice.haystack:
        raise UsageError("--haystack belongs to niah, ruler and babilong: leave it out.")
    if documents and not questions:
        raise UsageError(
            "--documents are what --questions asks about: give these too, or leave --documents out."
        )
    if questions and (choice.tasks or choice.split):
        raise UsageError(
            "--tasks and --split choose from published data, not from --questions: leave them out."
        )
    if suite == PERPLEXITY and not data:
        raise UsageError("Perplexity is measured on held-out texts: give some with --data PATH.")
    if questions and data:
        raise UsageError(
            "--questions asks about --documents and --data is a published set: leave one of them"
            " out."
        )
