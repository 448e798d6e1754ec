"""One HTML page that holds everything it needs: style, script and content, and asks no network for anything.

Its policy (Content-Security-Policy) lets run exactly the script and style shipped beside this file, by their hashes;
text of corpora and LLMs goes in as escaped text or as JSON that the script shows as text. Tables and charts are there
without script; heat maps and the error browser need it.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib import resources

from cdner.files import Json
from cdner.report import sections
from cdner.report.content import DIMENSIONS, ConfusionMap, Model, Report
from cdner.report.markup import Verbatim, element, write
from cdner.report.tables import setting_name
from cdner.text import visible
from cdner.types import Corpus, Entity

_KINDS = ("type", "boundary", "missed", "spurious")
# Inside <script> HTML ends at "</script" and "<!--"; the others are line ends to old JavaScript.
_IN_SCRIPT = str.maketrans({char: f"\\u{ord(char):04x}" for char in "<>&\u2028\u2029"})


def render_page(report: Report) -> str:
    """The page as text, to be written as UTF-8."""
    style, script = _shipped("page.css"), _shipped("page.js")
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="referrer", content="no-referrer"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", f"{report.title} - cdner report"),
        element("style", Verbatim(style)),
    )
    content = element("script", Verbatim(_content(report)), type="application/json", id="content")
    body = element("body", *sections.sections(report), content, element("script", Verbatim(script)))
    return "<!DOCTYPE html>\n" + write(element("html", head, body, lang="en")) + "\n"


def _shipped(name: str) -> str:
    return (resources.files("cdner.report") / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _content(report: Report) -> str:
    """What the script shows, as JSON that cannot end its element."""
    types = tuple(dict.fromkeys(name for corpus in report.corpora for name in _types_of(corpus, report)))
    numbers = {name: number for number, name in enumerate(types)}
    content: Json = {
        "types": [visible(name) for name in types],
        "kinds": list(_KINDS),
        "maps": [_map(item) for item in report.maps],
        "corpora": [_corpus(corpus, numbers) for corpus in report.corpora],
        "models": [_model(model, numbers) for model in report.models],
        # Rows of numbers: ten thousand of them are read at once.
        "errors": [
            [
                *(error.model, error.position, _KINDS.index(error.kind)),
                *(numbers.get(error.gold, -1), numbers.get(error.predicted, -1), error.start, error.end),
            ]
            for error in report.errors
        ],
    }
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.translate(_IN_SCRIPT)


def _types_of(corpus: Corpus, report: Report) -> list[str]:
    """Declared, annotated and predicted ones."""
    mapped = [name for item in report.maps if item.domain == corpus.domain for name in item.types]
    predicted = [
        entity.type
        for model in report.models
        if report.corpora[model.corpus] is corpus
        for entities in model.predicted.values()
        for entity in entities
    ]
    judged = [
        verdict.type
        for model in report.models
        if report.corpora[model.corpus] is corpus
        for said in model.verdicts.values()
        for verdict in said
    ]
    gold = [entity.type for sentence in corpus.sentences for entity in sentence.entities]
    return list(dict.fromkeys([*mapped, *corpus.types, *gold, *predicted, *judged]))


def _map(item: ConfusionMap) -> Json:
    return {
        "experiment": visible(item.experiment),
        "domain": visible(item.domain),
        "run": item.run_id,
        "types": [visible(name) for name in item.types],
        "prefixes": [visible(name) for name in item.prefixes],
        "rivals": {visible(name): [visible(rival) for rival in found] for name, found in item.rivals.items()},
        "dimensions": [
            {"name": name, "meaning": meaning, "scores": [_rounded(row) for row in item.scores[name]]}
            for name, meaning in DIMENSIONS.items()
            if name in item.scores
        ],
    }


def _rounded(row: Sequence[float | None]) -> list[Json]:
    return [None if score is None else round(score, 4) for score in row]


def _corpus(corpus: Corpus, numbers: Mapping[str, int]) -> Json:
    return {
        "name": visible(f"{corpus.domain}/{corpus.split}"),
        "sentences": [
            [[visible(token) for token in sentence.tokens], _spans(sentence.entities, numbers)]
            for sentence in corpus.sentences
        ],
    }


def _model(model: Model, numbers: Mapping[str, int]) -> Json:
    return {
        "experiment": visible(model.experiment),
        "setting": setting_name(visible(model.where.setting)),
        "run": model.run_id,
        "corpus": model.corpus,
        "predicted": {str(p): _spans(entities, numbers) for p, entities in model.predicted.items()},
        "reasoning": {
            str(p): [visible(chain.initial), visible(chain.bidirectional)]
            for p, chain in model.reasoning.items()
        },
        "verdicts": {
            str(p): [[one.start, one.end, numbers[one.type], round(one.probability, 3)] for one in said]
            for p, said in model.verdicts.items()
        },
    }


def _spans(entities: Sequence[Entity], numbers: Mapping[str, int]) -> list[Json]:
    return [[entity.start, entity.end, numbers[entity.type]] for entity in entities]
