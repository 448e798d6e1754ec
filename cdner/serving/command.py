"""``cdner serve-model``: a trained model over HTTP."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cdner.errors import UsageError

if TYPE_CHECKING:
    from cdner.api import Recognizer

KEY_VARIABLE = "CDNER_SERVE_KEY"
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


@click.command("serve-model")
@click.argument("name")
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address to listen at; others need a key."
)
@click.option("--port", type=click.IntRange(0, 65535), default=9090, show_default=True, help="0: a free one.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1 ...")
@click.option(
    "--batch-size", type=click.IntRange(min=1), default=16, show_default=True, help="Sentences at once."
)
@click.option(
    "--max-waiting", type=click.IntRange(min=1), default=1024, show_default=True, help="Sentences that wait."
)
@click.option(
    "--max-texts", type=click.IntRange(min=1), default=256, show_default=True, help="Sentences a request."
)
@click.option(
    "--seconds", type=click.FloatRange(0.1, 3600), default=60.0, show_default=True, help="Time a request."
)
@click.option(
    "--jobs",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Folder where training jobs that Label Studio asks for are recorded (jobs.jsonl).  [default: refused]",
)
@click.pass_context
def serve_model(
    ctx: click.Context,
    /,
    name: str,
    host: str,
    port: int,
    device: str,
    batch_size: int,
    max_waiting: int,
    max_texts: int,
    seconds: float,
    jobs: Path | None,
) -> None:
    """Serve the model NAME over HTTP: EXPERIMENT:SETTING, a run id, or a folder that Recognizer.save wrote.

    POST /predict takes {"text": "..."}, {"tokens": [...]}, {"texts": [...]} or {"token_lists": [...]} and gives the
    entities with offsets, types and scores; /docs describes it, /health and /metrics watch it. Label Studio takes the
    same address as an ML backend. With CDNER_SERVE_KEY in the environment every request but /health needs that key,
    as "Authorization: Bearer KEY". Ctrl-C ends it.
    """
    key = os.environ.get(KEY_VARIABLE, "")
    if host not in _LOOPBACK and not key:
        raise UsageError(
            f"--host {host} can be reached by others: set {KEY_VARIABLE} to a key that they must send."
        )
    if max_texts > max_waiting:
        raise UsageError(
            f"--max-texts {max_texts}: a request cannot have more sentences than may wait ({max_waiting})."
        )
    try:
        import uvicorn

        from cdner.serving.app import Limits, Service, make_app
    except ModuleNotFoundError as error:
        raise UsageError("serve-model needs FastAPI and uvicorn: pip install 'cdner[serve]'.") from error
    from cdner.serving.batching import Batcher

    with _recognizer(ctx.obj["store"], name, device=device, batch_size=batch_size) as recognizer:
        recognizer.predict("cdner")  # loads the model now, not at the first request
        batcher = Batcher(recognizer.predict, most_texts=batch_size, most_waiting=max_waiting)
        limits = Limits(texts=max_texts, seconds=seconds)
        app = make_app(Service(batcher, name, recognizer.types, limits, key, jobs))
        config = uvicorn.Config(
            app,
            host=host,
            port=port,
            log_level="warning" if ctx.obj["quiet"] else "info",
            timeout_keep_alive=5,
        )
        try:
            uvicorn.Server(config).run()
        finally:
            batcher.close()


def _recognizer(store: Path, name: str, *, device: str, batch_size: int) -> Recognizer:
    from cdner.api import Recognizer

    if Path(name).is_dir():
        return Recognizer.load_folder(name, device=device, batch_size=batch_size)
    return Recognizer.load(store, name, device=device, batch_size=batch_size)


COMMANDS = {"serve-model": serve_model}
