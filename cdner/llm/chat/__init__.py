"""The HTTP client that all servers of chat completions share: vLLM's, OpenAI's, and whatever speaks like them.

A scheduler in the caller's thread decides what is sent when and where; a thread per request on its way does
nothing but wait for the answer. Knows nothing of prompts or of which backend uses it.

``client`` the door · ``call`` the scheduler · ``servers`` which server is asked next · ``pacing`` how fast one server
may be asked · ``exchange`` one request over the wire ·
``choice_dialogue`` probabilities of given answers · ``budget`` what a command may spend · ``clock`` time.
"""

from cdner.llm.chat.budget import Budget
from cdner.llm.chat.client import ChatClient
from cdner.llm.chat.exchange import Server
from cdner.llm.chat.pacing import Clock

__all__ = ["Budget", "ChatClient", "Clock", "Server"]
