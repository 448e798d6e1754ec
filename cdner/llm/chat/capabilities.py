"""What a model or a server takes of a request: parameters, roles, schema keywords. Data, and what refusals teach.

``capabilities.toml`` beside the price list holds the well-known families, ``execution.capabilities`` of the experiment
adds to it, and a server's refusal that names a parameter teaches the rest for the length of a command. None of it
enters a request's identity: a request says what is asked for, and this how it is put.
"""

from __future__ import annotations

import json
import logging
import re
import threading
import tomllib
from collections.abc import Mapping
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cdner.config import Capabilities
from cdner.llm.chat.reply import ServerError

SHIPPED = Path(__file__).parents[1] / "capabilities.toml"
SETTING = "execution.capabilities"
_log = logging.getLogger("cdner")
_REFUSED = re.compile(
    r"unsupported|not (?:\w+ )?(?:supported|permitted|allowed|available|recogni[sz]ed|accepted|valid)|"
    r"unknown|unavailable|unrecogni[sz]ed|unexpected|deprecated|does(?:n't| not) (?:support|accept|allow)|"
    r"cannot find field|extra (?:inputs|fields)|only the default|invalid (?:parameter|argument|field)|no longer",
    re.IGNORECASE,
)
_SYSTEM = re.compile(
    r"system[ '\"`]{0,3}(?:role|message|prompt|instruction)|role[s ]{0,3}['\"`:= ]{0,4}system|developer instruction",
    re.IGNORECASE,
)
_INSTEAD = re.compile(r"use ['\"`]?([a-z_]{3,40})['\"`]? instead", re.IGNORECASE)
_ONLY = re.compile(r"only the default \((\d{1,4}(?:\.\d{1,4})?)\)", re.IGNORECASE)
_FORMAT = re.compile(r"response_?format|json_?schema|structured output|guided", re.IGNORECASE)
_LENGTHS = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}
_NEVER_LEFT_OUT = frozenset({"model", "messages", "stream", "extra_body", "response_format"})
_KEYWORDS = ("maxLength", "maxItems", "enum", "additionalProperties", "strict")
_WEAKER = {"json_schema": "json_object", "json_object": "none"}


class Dialect:
    """How requests to the servers of one client are put; threads share it."""

    def __init__(self, capabilities: Capabilities) -> None:
        self._now = capabilities
        self._lock = threading.Lock()

    @property
    def now(self) -> Capabilities:
        return self._now

    def learn(
        self, sent_with: Capabilities, sent: Mapping[str, Any], error: ServerError, *, shown: str
    ) -> bool:
        """Whether the request is worth sending again, because a refusal taught something since it was put.

        ``shown``: the refusal without the key.
        """
        with self._lock:
            if self._now != sent_with:
                return True
            if error.status not in {400, 404, 422, 501} or not _REFUSED.search(error.words):
                return False
            found = _lesson(sent_with, sent, error.words)
            if found is None:
                return False
            self._now, what = found
        _log.warning(
            "Warning: the server refuses a part of the requests ('%s'); cdner %s for the rest of this command. "
            "To say so from the start, set %s.",
            shown[:160],
            what,
            SETTING,
        )
        return True


def capabilities_of(model: str, base_url: str, own: Capabilities | None = None) -> Capabilities:
    """Of the shipped table, with the experiment's on top."""
    host = urlsplit(base_url).hostname or ""
    name = model.rpartition("/")[2].lower()
    found = Capabilities()
    for hosts, models, entry in _shipped():
        if any(fnmatchcase(host, one) for one in hosts) and any(fnmatchcase(name, one) for one in models):
            found = _added(found, entry)
    return _added(found, own) if own is not None else found


def put(arguments: Mapping[str, Any], capabilities: Capabilities) -> dict[str, Any]:
    """The arguments of a chat completion as the server takes them."""
    table = dict(arguments)
    _put_format(table, capabilities)
    for pair in capabilities.send:
        name, _, number = pair.partition("=")
        if name in table:
            table[name] = float(number)
    for name in capabilities.leave_out:
        table.pop(name, None)
    extra = dict(table.get("extra_body") or {})
    for pair in capabilities.rename:
        before, _, after = pair.partition("=")
        if before in table:
            value = table.pop(before)
            (table if after in _LENGTHS else extra)[after] = value
    if capabilities.thinking != "default":
        extra["chat_template_kwargs"] = {"enable_thinking": capabilities.thinking == "on"}
    if extra:
        table["extra_body"] = extra
    if capabilities.system_role != "system":
        table["messages"] = _without_system(table["messages"], capabilities.system_role)
    return table


def _put_format(table: dict[str, Any], capabilities: Capabilities) -> None:
    asked = table.get("response_format")
    if not isinstance(asked, Mapping) or "json_schema" not in asked:
        return
    if capabilities.response_format == "none":
        del table["response_format"]
    elif capabilities.response_format == "json_object":
        table["response_format"] = {"type": "json_object"}
    elif capabilities.schema_without:
        schema = _without_keywords(asked["json_schema"], frozenset(capabilities.schema_without))
        table["response_format"] = {**asked, "json_schema": schema}


def _without_keywords(schema: Any, left_out: frozenset[str], *, names: bool = False) -> Any:
    """``names``: the keys are names of properties, not keywords."""
    if isinstance(schema, list):
        return [_without_keywords(part, left_out) for part in schema]
    if not isinstance(schema, Mapping):
        return schema
    return {
        key: _without_keywords(value, left_out, names=key == "properties" and not names)
        for key, value in schema.items()
        if names or key not in left_out
    }


def _without_system(messages: list[dict[str, str]], role: str) -> list[dict[str, str]]:
    """Another name for the role, or its text at the head of the user's first message; turns of one role are joined."""
    if role == "developer":
        return [{**turn, "role": "developer"} if turn["role"] == "system" else turn for turn in messages]
    joined: list[dict[str, str]] = []
    for turn in messages:
        named = "user" if turn["role"] == "system" else turn["role"]
        if joined and joined[-1]["role"] == named:
            joined[-1] = {"role": named, "content": f"{joined[-1]['content']}\n\n{turn['content']}"}
        else:
            joined.append({"role": named, "content": turn["content"]})
    return joined


def _lesson(now: Capabilities, sent: Mapping[str, Any], words: str) -> tuple[Capabilities, str] | None:
    """What a refusal says that the next request should do, and that in words; None if it says nothing of use."""
    if now.system_role != "user" and _SYSTEM.search(words):
        return now.model_copy(
            update={"system_role": "user"}
        ), "puts the system message into the user's first message"
    schema = json.dumps(sent.get("response_format") or {})
    for keyword in _KEYWORDS:
        if f'"{keyword}"' in schema and re.search(rf"\b{keyword}\b", words):
            without = (*now.schema_without, keyword)
            return now.model_copy(update={"schema_without": without}), f"leaves '{keyword}' out of the schema"
    if "response_format" in sent and _FORMAT.search(words):
        weaker = (
            "none" if sent["response_format"].get("type") == "json_object" else _WEAKER[now.response_format]
        )
        return now.model_copy(update={"response_format": weaker}), f"asks with response_format = '{weaker}'"
    return _parameter_lesson(now, sent, words)


def _parameter_lesson(
    now: Capabilities, sent: Mapping[str, Any], words: str
) -> tuple[Capabilities, str] | None:
    extra = sent.get("extra_body") or {}
    for name in sorted({*sent, *extra} - _NEVER_LEFT_OUT, key=lambda one: (-len(one), one)):
        if not re.search(rf"(?<![a-z_]){re.escape(name)}(?![a-z_])", words):
            continue
        only = _ONLY.search(words)
        if only and not any(pair.startswith(f"{name}=") for pair in now.send):
            pair = f"{name}={only.group(1)}"
            return now.model_copy(update={"send": (*now.send, pair)}), f"sends {pair}"
        instead = _INSTEAD.search(words)
        other = instead.group(1) if instead else _LENGTHS.get(name, "")
        if other and other != name and not any(pair.startswith(f"{name}=") for pair in now.rename):
            return now.model_copy(
                update={"rename": (*now.rename, f"{name}={other}")}
            ), f"sends '{name}' as '{other}'"
        if name not in _LENGTHS:
            return now.model_copy(update={"leave_out": (*now.leave_out, name)}), f"leaves '{name}' out"
    return None


def _added(base: Capabilities, more: Capabilities) -> Capabilities:
    changes: dict[str, Any] = {}
    for name in more.model_fields_set:
        value = getattr(more, name)
        changes[name] = (*getattr(base, name), *value) if isinstance(value, tuple) else value
    return base.model_copy(update=changes)


@cache
def _shipped() -> tuple[tuple[tuple[str, ...], tuple[str, ...], Capabilities], ...]:
    entries = []
    for table in tomllib.loads(SHIPPED.read_text(encoding="utf-8"))["entry"]:
        hosts, models = tuple(table.pop("hosts", ["*"])), tuple(table.pop("models", ["*"]))
        pairs = tuple(f"{before}={after}" for before, after in table.pop("rename", {}).items())
        values = {key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}
        entries.append(
            (hosts, models, Capabilities.model_validate({**values, **({"rename": pairs} if pairs else {})}))
        )
    return tuple(entries)
