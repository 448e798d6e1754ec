"""A chat model's tokenizer without its weights: measures prompts and breaks up special tokens in their texts.

Exists for LLMs on servers: a server is started with room for the longest prompt, which must be known before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cdner.errors import ModelError
from cdner.models.shelf import model_location
from cdner.models.vocabulary import neutralised, special_strings
from cdner.types import Message


@dataclass(frozen=True, slots=True)
class ChatTokenizer:
    """``window``: most tokens of prompt and answer together; None if the model's configuration does not say."""

    tokenizer: Any
    window: int | None

    def lengths(self, chats: Sequence[Sequence[Message]]) -> list[int]:
        """Tokens of each rendered chat with the opening of the answer. ModelError without a chat template.

        A message is tokenised once even if many chats share it; the tokens that the template puts around the messages
        are counted once per sequence of roles. Exact if the template's marks are special tokens, as in chat models.
        """
        if not self.tokenizer.chat_template:
            raise ModelError("The model's tokenizer has no chat template: it is not a chat model.")
        own: dict[str, int] = {}
        around: dict[tuple[str, ...], int] = {}
        found = []
        for chat in chats:
            for message in chat:
                if message.content not in own:
                    own[message.content] = self._n_tokens(message.content)
            contents = sum(own[message.content] for message in chat)
            roles = tuple(message.role for message in chat)
            if roles not in around:
                around[roles] = self._n_tokens(self._rendered(chat)) - contents
            found.append(contents + around[roles])
        return found

    def harmless(self, chats: Sequence[Sequence[Message]]) -> list[tuple[Message, ...]]:
        """The chats with special-token strings broken up: no text can end its turn or begin another."""
        specials = special_strings(self.tokenizer)
        clean: dict[str, str] = {}
        for message in (message for chat in chats for message in chat):
            if message.content not in clean:
                clean[message.content] = neutralised(message.content, specials)
        return [tuple(Message(message.role, clean[message.content]) for message in chat) for chat in chats]

    def _rendered(self, chat: Sequence[Message]) -> str:
        turns = [{"role": message.role, "content": message.content} for message in chat]
        return str(self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))

    def _n_tokens(self, text: str) -> int:
        return len(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def open_chat_tokenizer(model: str) -> ChatTokenizer:
    """``model``: a model of the shelf, a folder, or a hub name. ModelError: which model, why, what to do."""
    from transformers import AutoConfig, AutoTokenizer

    location = model_location(model)
    try:
        tokenizer = AutoTokenizer.from_pretrained(location, trust_remote_code=False)
        config = AutoConfig.from_pretrained(location, trust_remote_code=False)
    except Exception as error:  # the libraries that read the files can raise anything
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        where = "folder" if Path(location).is_dir() else "model"
        raise ModelError(
            f"Cannot read the tokenizer of the {where} '{model}': {reason} "
            "Give a folder with a model, a hub name, or a name that 'cdner models' lists."
        ) from error
    window = getattr(config.get_text_config(), "max_position_embeddings", None)
    return ChatTokenizer(tokenizer, int(window) if window else None)
