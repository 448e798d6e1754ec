"""``cdner explain`` for a fused setting: the steps in their order, what is printed of them, and all of it as JSON."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from cdner.console.output import print_rich, print_table, visible
from cdner.console.progress import StderrProgress
from cdner.explain import printed

if TYPE_CHECKING:
    from cdner.experiment.judge_method import Asked, JudgeMethod
    from cdner.explain.explanation import Found, Reasoned
    from cdner.explain.verdicts import Decision, FusedMethod, Judged
    from cdner.steps.context import Context
    from cdner.types import Sentence

Made = TypeVar("Made")
_N_SHOWN = 2  # of each distribution over types
_WORDS_AROUND = 6  # of a labelled mention
_NONE = "-"


@dataclass(frozen=True, slots=True)
class Walk:
    """The steps; each is printed when it is done."""

    sentence: Sentence
    method: FusedMethod
    judge: JudgeMethod
    context: Context
    quiet: bool
    prints: bool
    whole_prompt: bool

    def all_steps(self, title: str, changed: Sequence[str], *, weights: str | None) -> dict[str, Any]:
        """Everything there is to tell, as JSON."""
        from cdner.explain import verdicts as steps

        sentence, method, judge, context = self.sentence, self.method, self.judge, self.context
        started = time.monotonic()
        self._print(printed.print_head, title, sentence, ())
        if changed:
            click.echo(f"Warning: since the weights were fitted: {visible(', '.join(changed))}", err=True)
        reasoned = self._reasoned(weights)
        found = self._step("the setting's model", lambda: self._found(reasoned))
        self._print(_print_found, sentence, found)
        asked = self._step(
            "nearest labelled mentions",
            lambda: steps.questions_about(sentence, found.prediction, judge, context),
        )
        asking = time.monotonic()
        answers = self._step(
            f"verdicts by {judge.llm.backend} {judge.llm.model}",
            lambda: steps.judge_mentions(asked, judge, method, context),
        )
        seconds_judging = time.monotonic() - asking
        made = steps.decisions(sentence, found.prediction, answers, judge)
        self._print(_print_decisions, sentence, made, judge, whole_prompt=self.whole_prompt)
        self._print(_print_summary, sentence, made)
        total = time.monotonic() - started
        self._print(_print_time, found, reasoned, seconds_judging, total)
        return {
            **_method_json(method, judge),
            "tokens": sentence.tokens,
            "reasoning": None if reasoned is None else asdict(reasoned.chain),
            "generated": found.prediction.generated,
            "malformed": found.prediction.malformed,
            "mentions": [_decision_json(sentence, decision, judge) for decision in made],
            "seconds": {"total": round(total, 3)},
        }

    def _reasoned(self, weights: str | None) -> Reasoned | None:
        from cdner.explain.explanation import reason_about

        method, llm = self.method.reasoned, self.context.experiment.reason
        if method is None:
            return None
        with printed.Listening(f"reasoning by {llm.backend} {llm.model}", quiet=self.quiet) as listening:
            reasoned = reason_about(
                self.sentence, method, self.context, weights=weights, on_text=listening.hear
            )
        self._print(printed.print_reasoning, reasoned, llm.model)
        return reasoned

    def _found(self, reasoned: Reasoned | None) -> Found:
        from cdner.explain.explanation import find_entities

        return find_entities(
            *(self.sentence, self.method.model, self.context),
            chain=reasoned.chain if reasoned else None,
            settings=self.context.experiment.predict,
        )

    def _step(self, label: str, make: Callable[[], Made]) -> Made:
        """Progress ends before anything is printed: its bar would take stdout for itself."""
        with StderrProgress(quiet=self.quiet) as progress:
            self.context.progress = progress
            progress.start(label)
            return make()

    def _print(self, printer: Callable[..., None], *values: Any, **options: Any) -> None:
        if self.prints:
            printer(*values, **options)


# --- what is printed -------------------------------------------------------------------------------------


def _print_found(sentence: Sentence, found: Found) -> None:
    printed.print_title("Entities of the model")
    print_rich(printed.marked(sentence, found.prediction.entities))
    printed.print_malformed("The model", found)


def _print_decisions(
    sentence: Sentence, made: Sequence[Decision], judge: JudgeMethod, *, whole_prompt: bool
) -> None:
    shown_before: object = None
    for decision in made:
        shown = decision.judged and [item.mention for item in decision.judged.asked.shown]
        same_evidence = bool(shown) and shown == shown_before
        _print_decision(sentence, decision, judge, whole_prompt=whole_prompt, same_evidence=same_evidence)
        shown_before = shown


def _print_decision(
    sentence: Sentence,
    decision: Decision,
    judge: JudgeMethod,
    *,
    whole_prompt: bool,
    same_evidence: bool,
) -> None:
    """``same_evidence``: the same labelled mentions as with the mention before, whose table stands there."""
    printed.print_title(visible(_mention(sentence, decision)))
    click.echo(f"Model: {_first(decision.p_backbone)}")
    if decision.judged is None:
        click.echo("LLM: not asked, the model is sure enough (judge.share)")
    else:
        _print_judged(decision.judged, judge, whole_prompt=whole_prompt, same_evidence=same_evidence)
    click.echo(f"Fused: {_first(decision.p_fused)}")


def _print_judged(judged: Judged, judge: JudgeMethod, *, whole_prompt: bool, same_evidence: bool) -> None:
    neighbours = _neighbours(judged.asked, judge)
    if same_evidence:
        click.echo(f"Labelled mentions: the same {len(neighbours)}")
    elif neighbours:
        rows = [(one["likeness"], one["type"], one["mention"], one["around"]) for one in reversed(neighbours)]
        print_table(("likeness", "type", "labelled mention", "in train"), rows)
    if whole_prompt:
        for message in judged.asked.request.messages:
            click.echo(f"--- {message.role} ---")
            click.echo(visible(message.content))
    when = "from the store" if judged.was_stored else "asked now"
    if judged.verdict.gap_reason is not None:
        click.echo(visible(f"LLM: no verdict, {judged.verdict.gap_reason}"))
    else:
        click.echo(f"LLM: {_first(_llm(judged))} ({when})")


def _print_summary(sentence: Sentence, made: Sequence[Decision]) -> None:
    n_changed = sum(one.fused.type != one.backbone.type for one in made)
    printed.print_title(f"Decisions ({n_changed} of {len(made)} types changed)")
    rows = [
        (
            _mention(sentence, one),
            one.backbone.type,
            max(_llm(one.judged).items(), key=lambda item: item[1], default=(_NONE, 0.0))[0],
            one.fused.type,
        )
        for one in made
    ]
    if rows:
        print_table(("mention", "model", "LLM", "fused"), rows)


def _print_time(found: Found, reasoned: Reasoned | None, seconds_judging: float, total: float) -> None:
    parts = [f"model {found.seconds_predicting:.1f} s (loading {found.seconds_loading:.1f} s)"]
    if reasoned is not None:
        parts.append(f"reasoning {reasoned.seconds:.1f} s")
    parts.append(f"verdicts {seconds_judging:.1f} s")
    click.echo()
    click.echo(f"Time: {', '.join(parts)}; {total:.1f} s in all.")


def _first(probabilities: Mapping[str, float]) -> str:
    """``actor 0.531, director 0.207``"""
    ranked = sorted(probabilities.items(), key=lambda item: -item[1])
    return visible(", ".join(f"{name} {share:.3f}" for name, share in ranked[:_N_SHOWN])) or _NONE


def _mention(sentence: Sentence, decision: Decision) -> str:
    return " ".join(sentence.tokens[decision.backbone.start : decision.backbone.end])


def _llm(judged: Judged | None) -> dict[str, float]:
    """Candidate -> probability; empty without a verdict."""
    from cdner.steps.judging import probabilities_of

    return probabilities_of(judged.verdict) if judged else {}


def _neighbours(asked: Asked, judge: JudgeMethod) -> list[dict[str, Any]]:
    """As in the prompt: the nearest last."""
    found = []
    for item, (sentence, entity) in zip(asked.shown, judge.known.shown(asked.shown), strict=True):
        first, last = max(0, entity.start - _WORDS_AROUND), entity.end + _WORDS_AROUND
        found.append(
            {
                "mention": " ".join(sentence.tokens[entity.start : entity.end]),
                "type": entity.type,
                "likeness": item.likeness,
                "around": " ".join(sentence.tokens[first:last]),
                "sentence": sentence.text,
            }
        )
    return found


# --- as JSON ---------------------------------------------------------------------------------------------


def _method_json(method: FusedMethod, judge: JudgeMethod) -> dict[str, Any]:
    return {
        "target": method.target,
        "setting": method.setting,
        "runs": {name: getattr(method, name).run_id for name in ("fuse", "judge", "prediction", "model")},
        "llm": {"backend": judge.llm.backend, "model": judge.llm.model},
        "weights": {
            "backbone": judge.fusion.backbone,
            "llm": judge.fusion.llm,
            "biases": dict(zip(judge.types, map(float, judge.fusion.biases), strict=True)),
        },
    }


def _decision_json(sentence: Sentence, decision: Decision, judge: JudgeMethod) -> dict[str, Any]:
    """``backbone``, ``llm`` and ``fused``: type -> probability, the most probable first."""
    judged = decision.judged
    asked: dict[str, Any] = {}
    if judged is not None:
        asked = {
            "request_id": judged.verdict.request_id,
            "was_stored": judged.was_stored,
            "candidates": judged.asked.candidates,
            "neighbours": [
                {name: value for name, value in one.items() if name != "around"}
                for one in _neighbours(judged.asked, judge)
            ],
            "prompt": [asdict(message) for message in judged.asked.request.messages],
            "origin": judged.verdict.origin,
            "gap_reason": judged.verdict.gap_reason,
        }
    return {
        "start": decision.backbone.start,
        "end": decision.backbone.end,
        "mention": _mention(sentence, decision),
        "backbone": _ranked(decision.p_backbone),
        "verdict": asked or None,
        "llm": _ranked(_llm(judged)),
        "fused": _ranked(decision.p_fused),
        "type": decision.fused.type,
    }


def _ranked(probabilities: Mapping[str, float]) -> dict[str, float]:
    return dict(sorted(probabilities.items(), key=lambda item: -item[1]))
