"""``cdner`` as one of several processes of ``accelerate launch`` or ``torchrun``: one carries out the command.

The others wait until it trains and then take their part of every optimiser step. They touch no store, print nothing
and write nothing. A command that does not train runs as always, and the others wait until it has ended.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from cdner.backbone import distributed, open_backbone
from cdner.backbone.packing import EncodedExample
from cdner.config import BackboneChoice, Training
from cdner.errors import CdnerError

if TYPE_CHECKING:
    from cdner.backbone.training import Job


def alone_unawares() -> str:
    """What to tell whoever asked ``accelerate launch --cpu`` for several processes; "" where nobody did.

    It sets an address to meet at and starts one process, which nobody will meet (accelerate 1.15).
    """
    on_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true"
    if not on_cpu or "MASTER_ADDR" not in os.environ or "RANK" in os.environ:
        return ""
    return (
        "accelerate launch --cpu starts one process, whatever --num_processes says. For several on the CPU "
        "use --multi_gpu instead of --cpu: it runs torchrun, and without GPUs the CPU is used."
    )


def run(command: Callable[[], int]) -> int:
    """Lead and carry out ``command``, or follow until it has ended; the exit code."""
    leads = os.environ["RANK"] == "0"
    # A follower leaves Ctrl-C to the leader and dies of SIGTERM without a word.
    for number, follows in ((signal.SIGINT, signal.SIG_IGN), (signal.SIGTERM, signal.SIG_DFL)):
        signal.signal(number, _interrupt if leads else follows)
    distributed.join()
    if not leads:
        return _follow()
    try:
        code = command()
    except BaseException:  # whatever it is, the caller says it
        distributed.leader_spoke()
        raise
    distributed.send(b"")
    distributed.leave()
    return code


def _interrupt(number: int, _frame: FrameType | None) -> None:
    """Once: a launcher that got a Ctrl-C, or has lost a process, sends signals to all that remain."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    stop = KeyboardInterrupt()
    if number == signal.SIGTERM:
        stop.add_note("The launcher ended this process; below it says which one was the first to end")
    raise stop


def _follow() -> int:
    try:
        while message := distributed.receive():
            _take_part(message)
    except distributed.LostProcessError:
        if distributed.processes().rank == 1 and not distributed.has_leader_spoken():
            raise
        return 1
    except CdnerError as error:
        distributed.report_failure(str(error))
        return 1
    distributed.leave()
    return 0


# --- one training -------------------------------------------------------------------------------------------


def announce(job: Job) -> None:
    """The leader's training begins: the others open the same model and take part. Alone, nothing happens."""
    if distributed.processes().n == 1:
        return
    device = job.backbone.device
    distributed.own_device(device.type, device.index)
    message = {
        # Where the weights were really read: a checkpoint of ours, or what "embedded" stands for.
        "choice": {**job.backbone.choice.model_dump(), "model": job.backbone.model.name_or_path},
        "device": device.type,
        "types": job.types,
        "settings": job.settings.model_dump(),
        "state_folder": str(job.state_folder.resolve()),
        "train": [asdict(example) for example in job.train],
        "dev": [asdict(example) for example in job.dev],
    }
    distributed.send(json.dumps(message).encode())


def _take_part(message: bytes) -> None:
    from cdner.backbone.training import Job, carry_out

    sent = json.loads(message)
    device = distributed.own_device(sent["device"], None)
    backbone = open_backbone(BackboneChoice.model_validate(sent["choice"]), device=device)
    settings = Training.model_validate(sent["settings"])
    backbone.prepare(sent["types"], settings)
    backbone.max_input_tokens = settings.max_input_tokens
    carry_out(
        Job(
            backbone,
            _examples(sent["train"]),
            _examples(sent["dev"]),
            settings=settings,
            state_folder=Path(sent["state_folder"]),
            types=tuple(sent["types"]),
        )
    )


def _examples(rows: Sequence[dict[str, Any]]) -> tuple[EncodedExample, ...]:
    return tuple(
        EncodedExample(
            tuple(row["source"]),
            tuple(row["target"]),
            row["n_truncated"],
            tuple(row["positions"]),
            tuple(row["token_types"]),
        )
        for row in rows
    )
