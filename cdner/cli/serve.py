"""``cdner serve``: one vLLM server in the foreground, for many commands.

A command of its own because a server takes a minute to start. Knows nothing of requests.
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import click

from cdner.console.experiment_options import compose_experiment
from cdner.console.progress import StderrProgress

if TYPE_CHECKING:
    from cdner.config import Execution
    from cdner.llm.vllm import VllmServer

DEFAULT_LENGTH = 8192  # tokens of prompt and answer: room for the ten examples of every domain
_WATCH_SECONDS = 3600.0


@click.command("serve")
@click.option("--model", required=True, help="Hub name, folder, or a name that 'cdner models' lists.")
@click.option(
    "--max-model-len",
    type=click.IntRange(min=1),
    help="Tokens of prompt and answer.  [default: 8192 at most]",
)
@click.option("--vllm-python", help="Interpreter of the environment with vLLM.")
@click.option("--vllm-arg", multiple=True, help="Handed to vLLM's server, e.g. --vllm-arg=--seed=1.")
@click.option("--gpu-memory", type=float, help="GiB for vLLM on a GPU; 0 = computed.")
@click.option("--device", help="auto, cuda, cuda:1 ... (a CPU build of vLLM knows the CPU only).")
@click.option("--concurrency", type=int, help="Requests at once that memory is taken for.")
@click.pass_context
def serve(ctx: click.Context, /, model: str, max_model_len: int | None, **flags: Any) -> None:
    """Serve a model with vLLM until Ctrl-C; other cdner commands that ask vLLM for the same model use it.

    Prints the base URL when it is ready. The key for other clients is in a file that is named on stderr. A server that
    dies is started again. Ctrl-C and SIGTERM end it with exit code 0 once it serves, with 130 while it loads.
    """
    execution = compose_experiment(None, flags, ()).execution
    with StderrProgress(quiet=ctx.obj["quiet"]) as progress:
        server, location, arguments = _prepare(model, execution, max_model_len)
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            progress.start(f"vLLM starts with {model}")
            server.start(arguments)
            _keep(server, location, progress)
        finally:
            server.close()


def _prepare(
    model: str, execution: Execution, max_model_len: int | None
) -> tuple[VllmServer, str, tuple[str, ...]]:
    """The server, what it loads, and vLLM's options: all that can fail before anything is started."""
    from cdner.llm.vllm import VllmServer, find_vllm, place
    from cdner.llm.vllm.arguments import engine_arguments, length_given
    from cdner.llm.vllm.memory import model_size
    from cdner.models.shelf import model_location

    installation = find_vllm(execution)
    location = model_location(model)
    size = model_size(location)
    length = length_given(execution.vllm_args) or max_model_len
    if length is None:
        length = min(DEFAULT_LENGTH, (size.window if size else None) or DEFAULT_LENGTH)
    placement = place(installation, execution, model=location, max_model_len=length)
    arguments = engine_arguments(
        installation.device,
        max_model_len=length,
        gpu_memory_utilization=placement.memory.utilization if placement.memory else None,
        user=execution.vllm_args,
    )
    # It is shared, so nobody may put it to sleep.
    server = VllmServer(installation, model=location, served_name=model, sleep_level=0, placement=placement)
    return server, location, ("--enable-prompt-tokens-details", *arguments)


def _keep(server: VllmServer, location: str, progress: StderrProgress) -> None:
    """Publish it and start it again when it dies, until interrupted."""
    from cdner.llm.vllm.served import published

    try:
        while True:
            with published(
                model=location,
                served_name=server.served_name,
                base_url=server.base_url,
                api_key=server.api_key,
            ) as key:
                click.echo(server.base_url)
                progress.start(f"Serving {server.served_name}; key for other clients: {key}; Ctrl-C ends it")
                while not server.has_died(_WATCH_SECONDS):
                    pass
            server.ensure_running()
    except KeyboardInterrupt:
        progress.start("Stopping")


COMMANDS = {"serve": serve}
