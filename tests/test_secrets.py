"""No key and no password reaches the terminal, a log, a file or a tracker, whoever echoes it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Result

from sow.config.command_line import _traceback
from sow.config.compose import compose
from sow.errors import UserError
from sow.store import secrets
from sow.store.secrets import PIECE, hide_credentials, hide_variable, redact, redact_file, redact_logs

KEY = "AIzaSyA-very-secret-key-0123456789"

VARIABLES = [
    "GEMINI_API_KEY",
    "GOOGLE_API_KEY",
    "OPENAI_API_KEY",
    "WANDB_API_KEY",
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_ACCESS_KEY_ID",
    "MY_SERVER_PASSWORD",
    "DB_PASSWD",
    "SOME_CLIENT_SECRET",
    "OPENROUTER_APIKEY",
    "AZURE_CREDENTIALS",
]
ECHOES = {
    "whole": "bad key {0}",
    "twice": "{0}{0}",
    "cut behind": "key {1}... is wrong",
    "cut before": "...{2} is wrong",
    "in JSON": '{{"key": "{0}"}}',
    "in a path": "https://host/v1/{0}/models",
}
IN_TEXTS = [
    ("https://me:hunter2@host/v1", "https://***@host/v1"),
    ("http://:hunter2@host:8000", "http://***@host:8000"),
    ("http://me:hun/ter2@host:8000/v1", "http://***@host:8000/v1"),
    ("http://me:hun@ter2@host", "http://***@host"),
    ("http://hunter2@host", "http://***@host"),
    ("proxy socks5://me:hu%40nter2@host failed", "proxy socks5://***@host failed"),
    ("GET /v1?key=hunter2&alt=json", "GET /v1?key=***&alt=json"),
    ("https://host/?alt=json&access_token=hunter2", "https://host/?alt=json&access_token=***"),
    ("sqlite:///x.db?password=hunter2", "sqlite:///x.db?password=***"),
    ("{'Authorization': 'Bearer hunter2hunter2'}", "{'Authorization': 'Bearer ***'}"),
    ("authorization: Basic aHVudGVyMjp4", "authorization: Basic ***"),
]
HARMLESS = [
    "a person in a café",
    "Basic training in a forest",
    "Bearer of good news",
    "a@b.c and https://host/path@2x.png?size=3",
    "http://host:8000/path@2x.png",
    "the secret garden, the key=value store",
    "password",
    "outputs/2026-11-26/run.log",
]


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "_named", set())
    monkeypatch.setattr(secrets, "_in_urls", set())


@pytest.mark.parametrize("variable", VARIABLES)
def test_the_keys_of_all_variables_are_hidden(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, KEY)
    assert redact(f"a {KEY} b") == "a *** b"


@pytest.mark.parametrize("echo", ECHOES)
def test_no_long_piece_of_a_key_survives(echo: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINE", KEY)
    hide_variable("MINE")
    left = redact(ECHOES[echo].format(KEY, KEY[:20], KEY[-16:]))
    assert "***" in left and not any(KEY[i : i + PIECE] in left for i in range(len(KEY) - PIECE + 1))


@pytest.mark.parametrize(("text", "clean"), IN_TEXTS)
def test_credentials_in_texts_are_hidden(text: str, clean: str) -> None:
    assert redact(text) == clean
    assert redact({"a": [text, 1]}) == {"a": [clean, 1]}


@pytest.mark.parametrize("text", HARMLESS)
def test_other_texts_stay(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSH_KEY", "/home/me/.ssh/id")
    monkeypatch.setenv("HINT_PASSWORD", "a person in a café")
    monkeypatch.setenv("SHORT_KEY", "key")
    assert redact(text) == text


def test_the_password_of_a_url_is_hidden_alone_and_in_a_header() -> None:
    hide_credentials("https://me:p%40ssword99@host/v1")
    assert redact("p@ssword99 or bWU6cEBzc3dvcmQ5OQ== or p%40ssword99") == "*** or *** or ***"


def test_logs_and_files_lose_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    redact_logs()
    logging.getLogger("anything").warning("the server said %s", KEY)
    assert caplog.messages == ["the server said ***"]
    file = tmp_path / "config.yaml"
    file.write_text(f"a: {KEY}\n")
    redact_file(file)
    assert file.read_text() == "a: ***\n"


def test_a_traceback_loses_secrets(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    try:
        raise RuntimeError(f"no answer to {KEY}")
    except RuntimeError as error:
        _traceback(type(error), error, error.__traceback__)
    told = capsys.readouterr().err
    assert "RuntimeError: no answer to ***" in told and "test_secrets.py" in told


def test_a_configuration_is_told_without_passwords_and_composes_with_them() -> None:
    word = "planner.base_url=https://me:hunter2secret@host/v1"
    config = compose(["model=tiny", "planner=openai", "planner.model=x", word])
    assert config.planner.base_url == "https://me:hunter2secret@host/v1"
    assert config.resolved["planner"]["base_url"] == "https://***@host/v1"
    assert "hunter2" not in repr(config.overrides) and config.words[-1] == word


@pytest.mark.parametrize(
    ("word", "secret"),
    [
        ("planner.api_key_env=sk-proj-0123456789", "sk-proj"),  # the key itself
        ("planner.base_url=me:hunter2secret@host/v1", "hunter2"),
        ("planner.base_url=http://me:hun/ter2@host/v1", "ter2"),
        ("planner.base_url=http://me:hunter2@host:99999/v1", "hunter2"),
        ("planner.base_url=host:8000", "host"),
    ],
)
def test_what_may_be_a_secret_in_the_wrong_place_is_refused_and_not_repeated(word: str, secret: str) -> None:
    with pytest.raises(UserError) as error:
        compose(["model=tiny", "planner=openai", "planner.model=x", word])
    assert word.partition("=")[0] in str(error.value) and f"{secret}" not in str(error.value).replace(
        "://host", ""
    )


def test_a_run_leaves_no_password_anywhere(
    command_line: Callable[..., Result], outputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a server that cannot be reached, one plan that falls back, and W&B."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("UNUSED_TOKEN", "another-secret-of-mine-42")
    word = "planner.base_url=http://me:hunter2secret@127.0.0.1:9/another-secret-of-mine-42"
    result = command_line(
        "experiment=debug", "planner=openai", "planner.model=x", word, "planner.retries=0",
        "planner.on_error=fallback", "study=plan", "tracker=wandb",
    )  # fmt: skip
    assert result.status == 0, result.err
    (manifest,) = outputs.rglob("manifest.json")
    assert json.loads(manifest.read_text())["config"]["planner"]["base_url"] == "http://***@127.0.0.1:9/***"
    told = [("terminal", (result.out + result.err).encode())]
    told += [(str(p), p.read_bytes()) for p in outputs.rglob("*") if p.is_file()]
    assert len(told) > 5
    for where, data in told:
        assert not any(s in data for s in (b"hunter2secret", b"another-secret-of-mine", KEY.encode())), where
