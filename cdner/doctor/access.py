"""Keys and addresses of LLM servers. A key is present or absent here, never more; a password in an address neither."""

from __future__ import annotations

import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from urllib.parse import urlsplit

from cdner.doctor.finding import Examined, Finding, ok, problem, warning
from cdner.llm.openai import DEFAULT_BASE_URL, KEY_VARIABLE, URL_VARIABLE

KEYS = {
    KEY_VARIABLE: "for --backend openai",
    "VLLM_API_KEY": "for a vLLM server that asks for one",
    "HF_TOKEN": "for gated models on the hub",
}
SECONDS = 5.0


def key_variables() -> Iterator[Finding]:
    for name, purpose in KEYS.items():
        yield _key(name, purpose)


def _key(name: str, purpose: str) -> Finding:
    value = os.environ.get(name)
    again = f"Set {name} again, without it."
    if value is None:
        return ok(f"key: {name}", f"absent ({purpose})")
    if not value.strip():
        return warning(f"key: {name}", "set, but empty", f"Set {name} ({purpose}), or unset it.")
    key = value.strip()
    if key[0] in "'\"" or key[-1] in "'\"":
        return problem(f"key: {name}", "present, with quotation marks in it", again)
    if not all("!" <= character <= "~" for character in key):
        return problem(f"key: {name}", "present, with blanks or characters in it that no key has", again)
    if key != value:
        return warning(f"key: {name}", "present, with blanks around it, which cdner leaves out", again)
    return ok(f"key: {name}", "present")


def base_url_variable() -> Finding:
    subject, url = URL_VARIABLE, os.environ.get(URL_VARIABLE)
    if not url:
        return ok(subject, f"absent: {DEFAULT_BASE_URL}")
    return _address(subject, url) or ok(subject, url)


def _address(subject: str, url: str) -> Finding | None:
    """A problem with the shape of a base URL."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        return problem(subject, "no base URL", "Give one like http://localhost:8000/v1.")
    if parts.username or parts.password:
        return problem(
            subject, "a user name or password in it", f"Leave it out; a key belongs into {KEY_VARIABLE}."
        )
    return None


def servers(asked: Examined) -> Iterator[Finding]:
    """Whether each base URL answers. No key is sent: a server that refuses without one answers too."""
    for url in asked.execution.base_urls or (os.environ.get(URL_VARIABLE) or DEFAULT_BASE_URL,):
        yield _address("server", url) or _server(url.rstrip("/"))


def _server(url: str) -> Finding:
    try:
        with urllib.request.urlopen(f"{url}/models", timeout=SECONDS) as answer:  # noqa: S310  http or https: checked
            return ok("server", f"{url} answers {answer.status}")
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            return ok("server", f"{url} answers, and asks for a key")
        fix = "Is the path right? It mostly ends in /v1."
        return warning("server", f"{url} answers {error.code} to /models", fix)
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error or type(error).__name__
        return problem(
            "server", f"{url} does not answer: {reason}", "Start it, or check address, proxy and network."
        )
