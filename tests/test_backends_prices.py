"""Prices are data: what ships, what the user adds, and what a completion costs."""

from __future__ import annotations

import datetime
import tomllib
from pathlib import Path

import pytest

from cdner.errors import InputError
from cdner.llm.prices import SHIPPED, Price, cost_usd, price_of


@pytest.fixture(autouse=True)
def no_own_prices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CDNER_PRICES", raising=False)


def own_file(monkeypatch: pytest.MonkeyPatch, folder: Path, text: str) -> None:
    path = folder / "own.toml"
    path.write_text(text, encoding="utf-8")
    monkeypatch.setenv("CDNER_PRICES", str(path))


def test_shipped_prices_say_where_and_when_they_come_from() -> None:
    table = tomllib.loads(SHIPPED.read_text(encoding="utf-8"))
    assert table["source"] and datetime.date.fromisoformat(table["date"])
    for name in table["models"]:
        price = price_of(name)
        assert price is not None and 0 < price.cached_input <= price.input < price.output
        assert price.batch_factor == 0.5


def test_price_of_the_default_model() -> None:
    assert price_of("gpt-4o-mini") == Price(0.15, 0.075, 0.60, 0.5)
    assert price_of("gpt-4o-mini-2024-07-18") == price_of("gpt-4o-mini")


def test_snapshot_listed_itself_has_its_own_price() -> None:
    assert price_of("gpt-4o-2024-05-13") == Price(5.0, 5.0, 15.0, 0.5)  # and no discount on cached input
    assert price_of("gpt-4o-2024-08-06") == price_of("gpt-4o")


@pytest.mark.parametrize("name", ["gpt-4o-mini-audio", "gpt-4", "", "gpt-4o-mini-2024", "GPT-4o-mini"])
def test_unknown_model_has_no_price(name: str) -> None:
    assert price_of(name) is None


def test_own_server_has_only_the_users_prices(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert price_of("gpt-4o-mini", own_server=True) is None
    own_file(monkeypatch, tmp_path, '[models."gpt-4o-mini"]\ninput = 1\noutput = 2\ncached_input = 0.5\n')
    assert price_of("gpt-4o-mini", own_server=True) == Price(1.0, 0.5, 2.0, 1.0)
    assert price_of("gpt-4o-mini") == Price(1.0, 0.5, 2.0, 1.0)  # the user's word counts there too
    assert price_of("gpt-4o") is not None and price_of("gpt-4o", own_server=True) is None


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[models", "Cannot read the price file .*own.toml"),
        ("", "'models'"),
        ('[models."m"]\ninput = 1\n', r"'models\.m\.output'"),
        ('[models."m"]\ninput = -1\noutput = 2\n', r"'models\.m\.input'"),
        ('[models."m"]\ninput = "1"\noutput = 2\n', r"'models\.m\.input'"),
        ('[models."m"]\ninput = nan\noutput = 2\n', r"'models\.m\.input'"),
        ('[models."m"]\ninput = 1\noutput = 2\nbatch_factor = 2\n', r"'models\.m\.batch_factor'"),
        ('[models."m"]\ninput = 1\noutput = 2\ninptu = 2\n', r"'models\.m\.inptu'"),
    ],
)
def test_broken_price_file_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, complaint: str
) -> None:
    own_file(monkeypatch, tmp_path, text)
    with pytest.raises(InputError, match=complaint):
        price_of("m")


def test_absent_price_file_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CDNER_PRICES", str(tmp_path / "gone.toml"))
    with pytest.raises(InputError, match=r"gone\.toml"):
        price_of("m")


def test_cost_by_hand() -> None:
    price = Price(input=0.15, cached_input=0.075, output=0.60, batch_factor=0.5)
    cost = cost_usd(price, input_tokens=2_000, cached_tokens=1_500, output_tokens=300)
    assert cost == pytest.approx((500 * 0.15 + 1_500 * 0.075 + 300 * 0.60) / 1e6)
    assert cost_usd(price, input_tokens=2_000, cached_tokens=1_500, output_tokens=300, batch=True) == cost / 2
    # A server that calls more tokens cached than it read does not make input cheaper than cached input.
    assert cost_usd(price, input_tokens=10, cached_tokens=99, output_tokens=0) == pytest.approx(
        10 * 0.075 / 1e6
    )
