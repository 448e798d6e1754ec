"""What a model's tokens cost: prices.toml beside this file, and a file of the user's (CDNER_PRICES) over it.

A price of its day, for estimates and limits; the provider's bill is the truth. Knows no backend.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cdner.errors import InputError

VARIABLE = "CDNER_PRICES"
SHIPPED = Path(__file__).with_name("prices.toml")
_PER_TOKEN = 1e-6  # prices are per million tokens
_SNAPSHOT = re.compile(r"-\d{4}-\d{2}-\d{2}$")  # gpt-4o-mini-2024-07-18 costs what gpt-4o-mini costs
_Price = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars per million tokens; ``batch_factor`` is what the Batch API takes of them (0.5 = half)."""

    input: float
    cached_input: float
    output: float
    batch_factor: float = 1.0


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    input: _Price
    output: _Price
    cached_input: _Price | None = None  # None: no discount
    batch_factor: Annotated[float, Field(gt=0, le=1)] = 1.0


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    source: str = ""
    date: str = ""
    models: Mapping[str, _Entry]


def price_of(model: str, *, own_server: bool = False) -> Price | None:
    """None where no price is known. A server of the user's own has only the prices the user's file gives.

    A dated snapshot has its model's price unless it is listed itself. InputError names a broken price file.
    """
    own = os.environ.get(VARIABLE, "").strip()
    prices: dict[str, Price] = {} if own_server else _read(SHIPPED)
    if own:
        prices.update(_read(Path(own)))
    return prices.get(model) or prices.get(_SNAPSHOT.sub("", model))


def cost_usd(
    price: Price, *, input_tokens: int, cached_tokens: int, output_tokens: int, batch: bool = False
) -> float:
    """US dollars; the cached tokens are among the input tokens."""
    n_cached = min(cached_tokens, input_tokens)
    dollars = (
        (input_tokens - n_cached) * price.input + n_cached * price.cached_input + output_tokens * price.output
    )
    return dollars * _PER_TOKEN * (price.batch_factor if batch else 1.0)


def _read(path: Path) -> dict[str, Price]:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        models = _File.model_validate(table).models
    except ValidationError as error:  # before ValueError: it is one
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise InputError(f"Price file {path}: '{where}': {problem['msg']}.") from error
    except (OSError, ValueError) as error:
        raise InputError(f"Cannot read the price file {path}: {error}.") from error
    return {
        name: Price(
            entry.input,
            entry.input if entry.cached_input is None else entry.cached_input,
            entry.output,
            entry.batch_factor,
        )
        for name, entry in models.items()
    }
