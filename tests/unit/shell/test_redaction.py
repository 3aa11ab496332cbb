"""What is a secret, and what is not; masking what is printed and logged."""

import io
import json
import logging
import sys
from pathlib import Path
from typing import Any

import pytest

from lightning_maml.errors import SettingError
from lightning_maml.shell import redaction
from lightning_maml.shell.redaction import keep_out, masked, refuse_typed

DOTENV = """
DATASET_PATH=relative/data
WANDB_PROJECT=few-shot-learning
WANDB_API_KEY=0123456789abcdef
IMAGES=/somewhere/images
PHRASE="open sesame"
OLDER='it says "no"'
FLAG=true
NUMBER=1234567
PIN=12345678
PRIVATE="-----BEGIN-----
bGluZSBvbmU=
bGluZSB0d28=
-----END-----"
"""


@pytest.fixture(autouse=True)
def dotenv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of secrets, which are kept out until the end of a test, with those of the environment."""
    monkeypatch.setattr(redaction, "_names", {})
    monkeypatch.setattr(redaction, "_secret", redaction._secret)
    monkeypatch.setattr(logging, "_logRecordFactory", logging.getLogRecordFactory())
    for name, value in {
        "HF_TOKEN": "hugging-face",
        "TOKENIZERS_PARALLELISM": "certainly",
        "DB_PASSWORD": "short",
        "PHRASE": "another phrase",  # what the environment sets wins over `.env`, where the other one stands
        "MASTER_ADDR": "node-17.cluster",
    }.items():
        monkeypatch.setenv(name, value)
    (tmp_path / ".env").write_text(DOTENV)
    with monkeypatch.context() as streams:
        streams.setattr(sys, "stdout", sys.stdout)
        streams.setattr(sys, "stderr", sys.stderr)
        keep_out(tmp_path / ".env")
    return tmp_path / ".env"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the key 0123456789abcdef.", "the key ***WANDB_API_KEY***."),
        ("open sesame, another phrase", "***PHRASE***, ***PHRASE***"),
        ("hugging-face", "***HF_TOKEN***"),
        ("one bGluZSBvbmU= line", "one ***PRIVATE*** line"),
        ("12345678", "***PIN***"),
        ('it says "no"\n', "***OLDER***\n"),
        (json.dumps('it says "no"'), '"***OLDER***"'),
        # paths and W&B's settings, what its name does not call a secret, what is short
        *((text, text) for text in ("relative/data", "few-shot-learning", "/somewhere/images", "certainly")),
        *((text, text) for text in ("node-17.cluster", "short", "true", "1234567", "", "Open Sesame")),
    ],
)
def test_what_is_masked(text: str, expected: str) -> None:
    assert masked(text) == expected


def test_values_keep_their_kinds_where_they_hold_no_secret() -> None:
    values: dict[str, Any] = {"a": [1, 2.5, None, True, ("x", "true")], "lr": 1e-3, 3: {"path": "/somewhere/images"}}
    assert masked(values) == values
    assert [type(one) for one in masked(values)["a"]] == [int, float, type(None), bool, tuple]
    assert masked({"open sesame": [12345678, {"x": ("open sesame",)}]}) == {
        "***PHRASE***": ["***PIN***", {"x": ("***PHRASE***",)}]
    }


def test_what_is_printed_is_masked_and_so_is_what_others_read_along(
    dotenv: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """W&B puts a `write` of its own into the stream's place, and calls the one that was there."""
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    keep_out(dotenv)
    read: list[str] = []
    before = sys.stdout.write

    def write(text: str) -> int:
        read.append(text)
        return before(text)

    sys.stdout.write = write  # type: ignore[method-assign]
    print("it is", "open sesame")
    sys.stdout.writelines(["open sesame\n", "true\n"])
    assert "".join(read) == "it is ***PHRASE***\n***PHRASE***\ntrue\n"
    assert sys.stdout.getvalue() == "".join(read)  # type: ignore[attr-defined]
    stream, factory = sys.stdout, logging.getLogRecordFactory()
    keep_out(dotenv)  # again, as each job of a sweep does
    assert sys.stdout is stream and logging.getLogRecordFactory() is factory


def test_records_are_masked_and_others_are_what_they_were(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("some")
    with caplog.at_level(logging.INFO):
        log.info("the phrase is %s", "open sesame")
        log.info("%d of %d", 1, 2)
        try:
            raise ValueError("open sesame")
        except ValueError:
            log.exception("failed")
    assert [record.getMessage() for record in caplog.records] == ["the phrase is ***PHRASE***", "1 of 2", "failed"]
    assert caplog.records[1].args == (1, 2)
    assert "ValueError: ***PHRASE***" in caplog.text and "open sesame" not in caplog.text


def test_what_logging_would_survive_it_survives() -> None:
    record = logging.getLogger("some").makeRecord("some", logging.INFO, "", 0, "%(missing)s", ({"there": 1},), None)
    assert record.msg == "%(missing)s"  # whoever writes it prints what is wrong, and goes on


def test_without_secrets_nothing_is_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(redaction, "_names", {})
    monkeypatch.setattr(redaction.os, "environ", {"DATASET_PATH": "/somewhere", "HF_TOKEN": ""})
    keep_out(tmp_path / "nowhere")
    assert sys.stdout is stream


@pytest.mark.parametrize(
    "argument",
    [
        *("data=omniglot", "-m", "--help", "+model.torch_module.key=3", "+x.token=null", "+x.api_key=${oc.env:MY_KEY}"),
        *("+x.secret=1.5e-3", "+x.token_file=/run/secrets/token", "+x.password=short", "+x.monkey=anything at all"),
        *("data.root=/somewhere/images/more", "logging.wandb.project=few-shot-learning"),
        *("+model.torch_module.token_mixer=attention", "+model.torch_module.key_dim=128,256,512"),
        *("+model.torch_module.class_token=orthogonal", "+train.callbacks.mine.metric_key=metaval/outer_loss"),
    ],
)
def test_what_may_be_typed(argument: str) -> None:
    refuse_typed([argument])


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("+x=[open sesame]", r"\+x=\[\*\*\*PHRASE\*\*\*\]: what is typed"),
        ("+open sesame", r"\+\*\*\*PHRASE\*\*\*=: what is typed"),
        ("+x.access_token=abcdefgh", r"\+x.access_token=\*\*\*: what is typed"),
        ("+x.token=Abcdefgh", r"\+x.token=\*\*\*: what is typed"),
        ("+x.key=abcd1234", r"\+x.key=\*\*\*: what is typed"),
        ("+x.hf_token=hf_abcdefgh98765432", r"\+x.hf_token=\*\*\*: what is typed"),
        ("+x.PASSWORD=correct horse", r"\+x.PASSWORD=\*\*\*: .*'\+x.PASSWORD=\$\{oc.env:NAME\}'"),
    ],
)
def test_what_may_not(argument: str, message: str) -> None:
    with pytest.raises(SettingError, match=f"^{message}") as raised:
        refuse_typed(["data=glyphs", argument])
    assert not any(secret in str(raised.value) for secret in ("open sesame", "abcdefgh", "correct horse"))
