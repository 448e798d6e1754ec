"""spaCy: a DocBin with gold entities as ``doc.ents`` and predicted ones as ``doc.spans["predicted"]``.

So ``spacy train`` and ``spacy evaluate`` read the file as a gold corpus. Needs spaCy (``pip install cdner[export]``).
"""

from __future__ import annotations

from pathlib import Path

from cdner.formats.exported import ExportedCorpus

LANGUAGE = "xx"  # no rules of a language: the tokens are the corpus's
PREDICTED = "predicted"


def write_doc_bin(exported: ExportedCorpus, path: Path) -> None:
    """Each doc's ``user_data`` has its position, domain, split and the run of the predictions.

    Where the model says how sure it is, also ``predicted_scores`` and ``predicted_runners_up``, lists beside
    ``doc.spans["predicted"]`` with None for an entity of which it does not.
    """
    import spacy
    from spacy.tokens import Doc, DocBin, Span

    vocabulary = spacy.blank(LANGUAGE).vocab
    has_scores = exported.has_scores
    docs = DocBin(attrs=["ENT_IOB", "ENT_TYPE", "SPACY"], store_user_data=True)
    for (position, sentence, predicted), sure in zip(exported.rows(), exported.sureness(), strict=True):
        last = len(sentence.tokens) - 1
        spaces = [index < last for index in range(len(sentence.tokens))]
        doc = Doc(vocabulary, words=list(sentence.tokens), spaces=spaces)
        doc.set_ents([Span(doc, entity.start, entity.end, entity.type) for entity in sentence.entities])
        doc.spans[PREDICTED] = [Span(doc, entity.start, entity.end, entity.type) for entity in predicted]
        doc.user_data |= {
            "position": position,
            "domain": exported.domain,
            "split": exported.split,
            "run_id": exported.run_id,
        }
        if has_scores:
            doc.user_data["predicted_scores"] = [said and said.score for said in sure]
            doc.user_data["predicted_runners_up"] = [said and said.runner_up for said in sure]
        docs.add(doc)
    path.write_bytes(docs.to_bytes())
