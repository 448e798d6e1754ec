"""Label Studio: tasks with the gold entities as an annotation and the predicted ones as a prediction.

Offsets are code points, as Label Studio counts them. The project needs a labelling interface with the names used
here: ``labelling_interface`` writes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import quoteattr

from cdner.files import Json, canonical_json
from cdner.formats.exported import ExportedCorpus, Sureness, records
from cdner.types import Entity, Sentence

_FROM, _TO = "label", "text"


def write_label_studio(exported: ExportedCorpus, path: Path) -> None:
    """One JSON array of tasks, to be imported as a file.

    Where the model says how sure it is, each predicted region has a score, and the prediction the lowest of them:
    Label Studio sorts tasks by it.
    """
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write("[")
        for number, ((position, sentence, predicted), sure) in enumerate(
            zip(exported.rows(), exported.sureness(), strict=True)
        ):
            known = [said.score for said in sure if said is not None]
            task: dict[str, Json] = {
                "data": {
                    _TO: sentence.text,
                    "domain": exported.domain,
                    "split": exported.split,
                    "position": position,
                    "run_id": exported.run_id,
                },
                "annotations": [
                    {"ground_truth": True, "result": _regions(sentence, sentence.entities, "gold")}
                ],
                "predictions": [
                    {
                        "model_version": exported.model,
                        **({"score": min(known)} if known else {}),
                        "result": _regions(sentence, predicted, "predicted", sure),
                    }
                ],
            }
            file.write(f"{',' if number else ''}\n{canonical_json(task)}")
        file.write("\n]\n")


def labelling_interface(types: Sequence[str]) -> str:
    """The XML a project's labelling interface is set to before the tasks are imported."""
    labels = "\n".join(f"    <Label value={quoteattr(name)}/>" for name in types)
    return (
        f'<View>\n  <Labels name="{_FROM}" toName="{_TO}">\n{labels}\n  </Labels>\n'
        f'  <Text name="{_TO}" value="${_TO}"/>\n</View>\n'
    )


def _regions(
    sentence: Sentence, entities: Sequence[Entity], prefix: str, sure: Sequence[Sureness | None] = ()
) -> list[Json]:
    return [
        {
            "id": f"{prefix}-{record['start_token']}",
            "from_name": _FROM,
            "to_name": _TO,
            "type": "labels",
            "value": {
                "start": record["start"],
                "end": record["end"],
                "text": record["text"],
                "labels": [record["type"]],
            },
            **({"score": record["score"]} if "score" in record else {}),
        }
        for record in records(sentence, entities, sure)
    ]
