"""No key and no password reaches the terminal, a log, a file or a tracker, whoever echoes it."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from conftest import Result

from sow.config import environment
from sow.config.command_line import _traceback
from sow.config.compose import compose
from sow.errors import UserError
from sow.runs.records import config_hash
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
    "GITHUB_PAT",
    "PGPASSWORD",
    "MYSQL_PWD",
    "X_PASSPHRASE",
    "SSH_PRIVATE_KEY",
    "OPENAI_API_KEY_2",
    "OPENAIKEY",
    "API_TOKEN_PROD",
    "SECRET_SAUCE",
    "openaiApiKey",
    "npm_config__auth",
    "SLACK_WEBHOOK",
    "MY_BEARER",
    "SESSION_COOKIE",
    "AZURE_STORAGE_CONNECTION_STRING",
    "SENTRY_DSN",
    "WG_PSK",
    "DEPLOY_JWT",
]
VALUES = {  # of MY_SECRET: in what text, and what is left of it
    "of base64": ("/abcDEF123456+/base64==", "is {}", "is ***"),
    "of a tilde": ("~tilde~secret~1", "is {}", "is ***"),
    "short": ("short7", "is short7, not short70", "is ***, not short70"),
    "of words": ("correct horse battery", "is correct horse battery, correct horse", "is ***, correct horse"),
    "with quotes": ('it\'s"so"secret', "is {}", "is ***"),
    "in JSON": ('quo"ted\\secret', json.dumps('a quo"ted\\secret'), '"a ***"'),
    "in YAML": ("it's my secret", "a: 'it''s my secret'", "a: '***'"),
    "in a query": ("a secret+more&x", "?q=a+secret%2Bmore%26x", "?q=***"),
    "of lines": ("first-line-1234\nsecond-line-5678", "second-line-5678", "***"),
    "of JSON": (
        '{"private_key": "inner-secret-1", "user": "me-and-you"}',
        "inner-secret-1 me-and-you",
        "*** me-and-you",
    ),
    "of an address": (
        "https://hooks.example/T0/SEC9",
        "at https://hooks.example/T0/SEC9 and https://hooks.example/",
        "at *** and https://hooks.example/",
    ),
}
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
    ("http://me:hun'ter2@host/v1", "http://***@host/v1"),
    ('http://me:hun"ter2@host/v1', "http://***@host/v1"),
    ("http://me:hun ter2@host/v1", "http://***@host/v1"),
    ("HTTP:/me:hunter2@host", "HTTP:/***@host"),
    ("//me:hunter2@host/v1", "//***@host/v1"),
    ("me:hunter2@host/v1", "***@host/v1"),
    ("https://host/v1?a=1&subscription-key=hunter2", "https://host/v1?a=1&subscription-key=***"),
    ("https://host/?X-Amz-Signature=hunter2", "https://host/?X-Amz-Signature=***"),
    ("https://host/?X-Amz-Security-Token=hunter2", "https://host/?X-Amz-Security-Token=***"),
    ("https://host/#access_token=hunter2", "https://host/#access_token=***"),
    ("https://host/?code=hunter2&state=1", "https://host/?code=***&state=1"),
    ("next=https%3A%2F%2Fhost%3Fapi_key%3Dhunter2", "next=https%3A%2F%2Fhost%3Fapi_key%3D***"),
    ("client_secret=hunter2", "client_secret=***"),
    ("access_key=hunter2", "access_key=***"),
    ("refresh_token=hunter2, id_token: 'hunter2'", "refresh_token=***, id_token: '***'"),
    ("password=hunter2", "password=***"),
    ("x-api-key: hunter2", "x-api-key: ***"),
    ("{'X-Goog-Api-Key': 'hunter2'}", "{'X-Goog-Api-Key': '***'}"),
    ('{"password": "hunter2"}', '{"password": "***"}'),
    ("Authorization: Token hunter2hunter2", "Authorization: Token ***"),
    ("authorization: ApiKey hunter2", "authorization: ApiKey ***"),
    ("Authorization: Digest username=me, response=hunter2", "Authorization: *** ***"),
    ("Set-Cookie: sid=hunter2; Path=/", "Set-Cookie: ***"),
    ("AccountName=me;AccountKey=hunter2==;", "AccountName=me;AccountKey=***;"),
    ("https://host/sk-hunter2hunter2hunter2/v1", "https://host/***/v1"),
    ("a ghp_hunter2hunter2hunter2 b", "a *** b"),
    ("a eyJhbGciOiJI.eyJzdWIiOiIx.c2ln b", "a *** b"),
    ("-----BEGIN RSA PRIVATE KEY-----\nMIIhunter2\n-----END RSA PRIVATE KEY-----", "***"),
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
    "the password: swordfish, a secret: the garden",
    "planner.token_limit=max_completion_tokens",
    "api_key_env: OPENAI_API_KEY",
    "tokenizer: openai/clip-vit-large, max_tokens: 77",
    "see 'http://host:8000', 'x@y'",
    "git@github.com:a/b, mailto:someone@example.org",
    "at 12:30@noon.com, ratio 16:9",
    "study.key=outputs/x.json",
    "key: 0123456789abcdef",
]
LONG = [
    "http://" + "a:" * 20_000,
    "key.-" * 20_000,
    "x=" * 50_000,
    "://:" * 20_000,
    "Authorization: " * 5_000,
]


SECRETS = (b"hunter2secret", b"another-secret-of-mine", b"named-by-the-planner", KEY.encode())


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "_named", set())
    monkeypatch.setattr(secrets, "_held", set())


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
    monkeypatch.setenv("PASSWORD_HINT", "a person in a café")
    monkeypatch.setenv("SHORT_KEY", "key")
    assert redact(text) == text


@pytest.mark.parametrize("name", VALUES)
def test_a_secret_is_hidden_in_whatever_form_it_is_written(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    value, text, clean = VALUES[name]
    monkeypatch.setenv("MY_SECRET", value)
    assert redact(text.replace("{}", value)) == clean


@pytest.mark.parametrize("text", LONG, ids=range(len(LONG)))
def test_a_long_text_is_read_in_proportion_to_its_length(text: str) -> None:
    """What would take hours otherwise."""
    assert redact(text)


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
    assert file.read_text() == "a: '***'\n"


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


FROM_ENVIRONMENT = [  # (word that reads MINE, its value, the key)
    ("task.name=${oc.env:MINE}", "short7", "task.name"),
    ("task.name=x${oc.env:MINE}y", "ab", "task.name"),
    ("gate.tau='${oc.decode:${oc.env:MINE}}'", "0.3125", "gate.tau"),
    ("tracker.project=${oc.env:MINE}", "a-name-of-mine", "tracker.project"),
    ("tracker.project='${oc.env:NOT_THERE,${oc.env:MINE}}'", "another-name", "tracker.project"),
    ("tracker.project='${oc.env:MINE} and \"more\"'", 'quo"ted', "tracker.project"),
]


@pytest.mark.parametrize(("word", "value", "key"), FROM_ENVIRONMENT)
def test_what_the_environment_gave_is_used_and_told_nowhere(
    word: str, value: str, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINE", value)
    config = compose(["model=tiny", word])
    group, name = key.split(".")
    assert value in str(config.values[group][name]) and str(getattr(getattr(config, group), name))
    assert config.resolved[group][name] == "***"
    assert value not in str(config.resolved[group]) and value not in str(config.overrides)


@pytest.mark.parametrize(("word", "value", "key"), FROM_ENVIRONMENT)
@pytest.mark.parametrize("flags", [("--resolve",), ("--resolve", "--package", "{group}")], ids=len)
def test_a_resolved_configuration_shows_nothing_of_the_environment(
    command_line, word: str, value: str, key: str, flags: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINE", value)
    group, name = key.split(".")
    shown = command_line("--cfg", "job", *(f.format(group=group) for f in flags), "model=tiny", word)
    assert shown.status == 0 and "outputs" in shown.out or len(flags) > 1
    settings = yaml.safe_load(shown.out)
    assert settings.get(group, settings)[name] == "***"
    assert (shown.out.startswith("# @package") or len(flags) == 1) and "***" in shown.out


IN_ERRORS = [  # words that read MINE and end in an error
    "gate.tau=${oc.env:MINE}",
    "seed=${oc.env:MINE}",
    "height=a${oc.env:MINE}b",
    "condition.box=[${oc.env:MINE},1,2,3]",
    "guidance.scale='${oc.decode:${oc.env:MINE}}'",
    "preservation.t3=[${oc.env:MINE}]",
    "model=${oc.env:MINE}",
    "+ablation=${oc.env:MINE}",
    "model.dtype=${oc.env:MINE}",
    "task.name=[${oc.env:MINE}]",
    "condition.attributes.hat=${oc.env:MINE}",
    "hydra.verbose=${oc.env:MINE}",
    "hydra.run=${oc.env:MINE}",
    "hydra.mode=${oc.env:MINE}",
    "tracker.mode=${oc.env:MINE}",
]


@pytest.mark.parametrize(
    ("word", "value"),
    [
        *((word, "qz") for word in IN_ERRORS),
        *((IN_ERRORS[1], v) for v in ("7.5", "4.5e", "a b", "it's", "x")),
    ],
)
def test_an_error_shows_nothing_of_the_environment(
    word: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "_given", set())
    monkeypatch.setenv("MINE", value)
    with pytest.raises(UserError) as error:
        compose(["model=tiny", "condition=person", word])
        pytest.skip("as a number it is none")
    line = environment.told(str(error.value))
    key = word.lstrip("+").partition("=")[0]
    assert "\n" not in line and key in line
    assert not re.search(rf"(?<!\w){re.escape(value)}(?!\w)", line.replace("300", ""))


def test_what_the_environment_gave_makes_another_run(monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = set()
    for value in ("0.3125", "0.375"):
        monkeypatch.setenv("MINE", value)
        hashes.add(config_hash(compose(["model=tiny", "gate.tau='${oc.decode:${oc.env:MINE}}'"])))
    assert len(hashes) == 2


@pytest.mark.parametrize(
    "word",
    [
        "hydra.run.dir=/tmp/a_${oc.env:MINE}",
        "hydra.sweep.dir=/tmp/a_${oc.env:MINE}",
        "hydra.sweep.subdir=${hydra.job.num}_${oc.env:MINE}",
        "hydra.job.name=${oc.env:MINE}",
        "hydra.output_subdir=${oc.env:MINE}",
    ],
)
def test_a_folders_name_hides_nothing(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINE", "hush-hush")
    key = word.partition("=")[0]
    with pytest.raises(UserError, match=rf"the variable MINE.*\({key}\)"):
        compose(["model=tiny", word])


def test_an_existing_folder_of_the_environment_is_a_place(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SCRATCH", str(tmp_path))
    assert compose(["model=tiny", "hydra.run.dir=${oc.env:SCRATCH}/x"])
    assert redact(f"{tmp_path}/x") == f"{tmp_path}/x"


@pytest.mark.parametrize(
    ("word", "secret"),
    [
        ("planner.api_key_env=sk-proj-0123456789", "sk-proj"),  # the key itself
        ("planner.base_url=me:hunter2secret@host/v1", "hunter2"),
        ("planner.base_url=http://me:hun/ter2@host/v1", "ter2"),
        ("planner.base_url=http://me:hunter2@host:99999/v1", "hunter2"),
        ("planner.base_url=host:8000", "host"),
        ("planner.base_url=http://host/v1?k=hunter2", "hunter2"),
        ("planner.base_url=http://host/v1#hunter2", "hunter2"),
        ("planner.base_url=http://host/v1?api-version=hunter2&x=[1,2]", "hunter2"),
        ("planner.base_url=http://me=hun:ter2'@host/v1?", "ter2"),
        ("planner.base_url=http://host/v1 hunter2", "hunter2"),
        ("planner.base_url='http://host/v1?k=hunter2'", "hunter2"),
        ("planner.base_url={hunter2}", "hunter2"),
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
    monkeypatch.setenv("MINE", "named-by-the-planner")
    word = "planner.base_url=http://me:hunter2secret@127.0.0.1:9/another-secret-of-mine-42"
    result = command_line(
        "experiment=debug", "planner=openai", "planner.model=x", word, "planner.retries=0",
        "planner.on_error=fallback", "study=plan", "tracker=wandb", "planner.api_key_env=MINE",
        "prompt=my named-by-the-planner in a forest",
    )  # fmt: skip
    assert result.status == 0, result.err
    (manifest,) = outputs.rglob("manifest.json")
    assert json.loads(manifest.read_text())["config"]["planner"]["base_url"] == "http://***@127.0.0.1:9/***"
    told = [("terminal", (result.out + result.err).encode())]
    told += [(str(p), p.read_bytes()) for p in outputs.rglob("*") if p.is_file()]
    assert len(told) > 5
    for where, data in told:
        assert not any(s in data for s in SECRETS), where
