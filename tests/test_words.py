"""Words arrive as people type them; what Hydra's grammar cannot take is one line with key and cure."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Result
from hydra.types import RunMode

from sow.config.compose import compose
from sow.config.places import CONF
from sow.config.words import FREE_TEXT, PATHS, PROMPTS, elements, encode, from_sweeper, read
from sow.errors import UserError

Call = Callable[..., Result]
TEXTS = [
    "a person in a café",
    "it's a cat & a dog",
    "photo: a person (in) a forest [night]",
    "masterpiece, (best quality:1.2)",
    "50% off!",
    "a=b",
    "a person, smiling",
    "costs ${five} dollars",
    "猫",
    "1e3",
    "007",
    # and others of their kind
    "null",
    "true",
    "-1",
    "0x10",
    "[night] a [b]",
    "[a, b]",
    "{a: b}",
    '"Hello" he said "bye"',
    "${oc.env:HOME}",
    "${",
    "a \\${b} \\\\${c}",
    "C:\\faces\\",
    "~/faces",
    "choice of kings",
    "range(0,3)",
    "x\ty",
    " a person ",
    "it's 'a' \"b\" \\' c",
    "a # b ; c | d > e",
    "e\u0301 👩‍👩‍👧 \u202e",
]


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_arrives_as_it_was_typed_and_is_the_same_when_read_again(text: str) -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from omegaconf import OmegaConf

    for key in ("prompt", "guidance.negative_prompt", "+prompt"):
        (word,) = read([f"{key}={text}"], [CONF])
        (parsed,) = OverridesParser.create().parse_overrides([word])
        config = OmegaConf.create({"prompt": parsed.value()})
        assert OmegaConf.to_container(config, resolve=True) == {"prompt": text}
        assert not parsed.is_sweep_override()
        assert read([word], [CONF]) == [word]
        assert read([f"{key}={parsed.get_value_element_as_str()}"], [CONF]) == [word]  # as a sweep writes it


@pytest.mark.parametrize(
    "text", [t for t in TEXTS if not t.endswith("\\")]
)  # Hydra's lexer takes \\' for a quote
def test_a_sweepers_word_for_a_job_is_the_text_again(text: str) -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parser = OverridesParser.create()
    swept = parser.parse_override(read([f"prompt=choice({encode(text)},b)"], [CONF])[0])
    (hydras, _) = swept.sweep_string_iterator()
    assert from_sweeper(f"prompt={hydras}", escaped=True) == f"prompt={encode(text)}"
    fixed = parser.parse_override(read([f"prompt={text}"], [CONF])[0]).value()
    assert from_sweeper(f"prompt={fixed}", escaped=False) == f"prompt={encode(text)}"  # as Optuna writes it


def test_texts_reach_the_configuration() -> None:
    """Three at a time, under the keys that take them."""
    keys = [key for key in PROMPTS if key.startswith(("prompt", "guidance.n", "inversion.n"))]
    for start in range(0, len(TEXTS), len(keys)):
        words = [f"{key}={text}" for key, text in zip(keys, TEXTS[start:], strict=False)]
        config = compose(["model=tiny", *words])
        for word in words:
            node: object = config.resolved
            for part in word.partition("=")[0].split("."):
                node = node[part]  # type: ignore[index]
            assert node == word.partition("=")[2]


def test_a_sweep_runs_the_texts_that_it_was_given(command_line: Call, tmp_path: Path, outputs: Path) -> None:
    import json

    (tmp_path / "list.txt").write_text("\ufeffa cat, a dog\n\n1e3\n", encoding="utf-8")
    words = ("-m", "experiment=debug", "study=plan", "planner=fixed", "guidance.negative_prompt=a, b")
    assert command_line(*words, f"prompt=@{tmp_path / 'list.txt'}").status == 0
    assert command_line(*words, "prompt=choice('costs ${five}, or',it's)").status == 0
    found = [json.loads(m.read_text())["config"] for m in outputs.rglob("manifest.json")]
    assert {c["prompt"] for c in found} == {"a cat, a dog", "1e3", "costs ${five}, or", "it's"}
    assert {c["guidance"]["negative_prompt"] for c in found} == {"a, b"}


READ = [
    ("prompt='a, b'", "prompt='a, b'"),
    ('prompt="a, b"', "prompt='a, b'"),
    ("prompt=choice('a, b',c d,it's)", "prompt=choice('a, b','c d','it\\'s')"),
    (r"prompt=choice('a\\','b')", r"prompt=choice('a\\','b')"),
    (r"prompt=choice(C:\faces\,b)", r"prompt=choice('C:\faces\\','b')"),
    ("condition.image=photo (1).png", "condition.image='photo (1).png'"),
    ("condition.image=[a b.png,'c,d.png']", "condition.image=['a b.png','c,d.png']"),
    ("condition.image=a,b.png", "condition.image='a,b.png'"),
    ("condition.mask=null", "condition.mask=null"),
    ("cache.folder=null", "cache.folder=null"),
    ("model.path=/models/sd (2.1)", "model.path='/models/sd (2.1)'"),
    ("condition.attributes.hat=cap", "++condition.attributes.hat=cap"),
    ("gate=region,always", "gate=region,always"),
    ("gate=choice(region,always)", "gate=choice(region,always)"),
    ("gate=glob(*)", "gate=glob(*)"),
    ("hydra.run.dir=a, b (c)", "hydra.run.dir='a, b (c)'"),
    ("hydra.sweep.dir=it's = 'here'", r"hydra.sweep.dir='it\'s = \'here\''"),
    ("hydra.run.dir=~/a b/${now:%Y}", "hydra.run.dir='~/a b/${now:%Y}'"),
    ("hydra.sweep.subdir=${hydra.job.num} [a]", "hydra.sweep.subdir='${hydra.job.num} [a]'"),
    ("planner.prompt_version=my prompts (2)", "planner.prompt_version='my prompts (2)'"),
    ("planner.prompt_version=~me/v1", "planner.prompt_version='~me/v1'"),
    ("metrics.pretrained=/models/ViT, (b).pt", "metrics.pretrained='/models/ViT, (b).pt'"),
    ("study.tables=[a b,'c,d']", "study.tables=['a b','c,d']"),
    ("study=choice(generate,plan)", "study=choice(generate,plan)"),
    ("ablation=choice([no_dam,no_pi],full)", "+ablation=choice([no_dam,no_pi],full)"),
    ("seed=range(0,3)", "seed=range(0,3)"),
    ("gate.tau=0.2,0.3", "gate.tau=0.2,0.3"),
    ("~cycle.eta", "~cycle.eta"),
    ("hydra/launcher=joblib", "hydra/launcher=joblib"),
    ("ablation=no_dam", "+ablation=no_dam"),
    ("ablation=full,[no_dam,no_pi]", "+ablation=full,[no_dam,no_pi]"),
]


@pytest.mark.parametrize(("word", "hydras"), READ)
def test_a_word_in_hydras_grammar(word: str, hydras: str) -> None:
    assert read([word], [CONF]) == [hydras] == read([hydras], [CONF])


def test_a_file_that_is_named_like_a_list_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("[1].png", "@home.png", "[x]"):
        Path(name).write_text("")
        assert read([f"condition.image={name}"], [CONF]) == [f"condition.image='{name}'"]


@pytest.mark.parametrize(
    "words",
    [
        ["ablation=no_dam", "seed=1", "+ablation=[no_pi,no_dam]"],
        ["+ablation=no_dam", "ablation=no_pi", "seed=1"],
        ["ablation=[no_dam,no_pi]", "seed=1"],
    ],
    ids=" ".join,
)
def test_ablations_are_one_word_at_the_end(words: list[str]) -> None:
    assert read(words, [CONF]) == ["seed=1", "+ablation=[no_dam,no_pi]"]


REFUSED = [
    ("prompt=", "prompt has no value: give prompt=... (prompt)"),
    ("prompt=''", "prompt has no value"),
    ("prompt=  ", "prompt has no value"),
    ("condition.image=", "condition.image has no value"),
    ("hydra.run.dir=", "hydra.run.dir has no value"),
    ("hydra.sweep.dir=''", "hydra.sweep.dir has no value"),
    ("prompt=@nowhere.txt", "prompt=@nowhere.txt names a file with one text per line, which cannot be read"),
    (r"prompt=choice('a\','b')", r"prompt=choice(..) holds 'a\','b', whose quotes do not match"),
    ("prompt=a\udcffb", r"'prompt=a\udcffb' is no text in UTF-8"),
    ("prompt@x=a", "prompt@x is no key: leave @x out (prompt)"),
    ("ablation=[[no_dam]]", "ablation=[[no_dam]] is no option"),
    ("gate=0.2", "gate=0.2 is no option: choose one of always, region (gate)"),
    ("gate=[0.2]", "gate=[0.2] is no option: gate takes one and not a list, choose one of always, region"),
    ("gate=[region,always]", "gate=[region,always] is no option: gate takes one and not a list"),
    ("gate=[region]", "gate=[region] is no option: gate takes one and not a list"),
    ("+gate=[region]", "gate=[region] is no option: gate takes one and not a list"),
    ("study=[generate,plan]", "study=[generate,plan] is no option: study takes one and not a list"),
    ("task=[normal,style]", "task=[normal,style] is no option: task takes one and not a list"),
    ("model=choice([tiny,people],tiny)", "model=choice([tiny,people],tiny) is no option: model takes one"),
    ("model=tiny,[people]", "model=tiny,[people] is no option: model takes one and not a list"),
    ("experiment=[debug,table1]", "experiment=[debug,table1] is no option: experiment takes one"),
    ("hydra/launcher=[basic,joblib]", "hydra/launcher=[basic,joblib] is no option: name one"),
    ("hydra/sweeper=null", "hydra/sweeper=null is no option: name one (hydra/sweeper)"),
    ("experiment=null", "experiment=null is no option: choose one of calibrations, debug"),
    ("+experiment=null", "experiment=null is no option: choose one of calibrations, debug"),
    ("experiment=debug,null", "experiment=debug,null is no option: choose one of calibrations, debug"),
    (
        "experiment=choice(null,debug)",
        "experiment=choice(null,debug) is no option: choose one of calibrations, debug",
    ),
    ("planner.store=", "planner.store has no value: give planner.store=... (planner.store)"),
    ("method.cache=''", "method.cache has no value"),
    ("hydra.sweep.subdir=", "hydra.sweep.subdir has no value"),
    ("hydra.run.dir=null", "hydra.run.dir has no value"),
    ("gate=region,ajar", "gate=region,ajar is no option: choose one of always, region (gate)"),
    ("tracker=false", "tracker=false is no option: choose one of none, wandb (tracker)"),
    ("tracker=Null", "tracker=Null is no option: choose one of none, wandb (tracker)"),
    ("model=null", "model=null is no option: choose one of"),
    ("+method=", "method= is no option: choose one of blended_latent"),
    ("study={a: b}", "study={a: b} is no option"),
    ("ablation=[no_dam", "ablation=[no_dam is no option: choose one of full, no_ap"),
    ("ablation=[no_dam,b]", "ablation=[no_dam,b] is no option: choose one of full, no_ap"),
    ("ablation=no_dammit", "ablation=no_dammit is no option: choose one of full, no_ap"),
    ("ablation=", "ablation= is no option: choose one of full, no_ap"),
    ("prompt=???", "prompt=??? is Hydra's mark for a missing value: write it otherwise (prompt)"),
    ("guidance.negative_prompt='???'", "guidance.negative_prompt=??? is Hydra's mark"),
    ("prompt=choice('a','???')", "prompt=??? is Hydra's mark"),
    ("condition.image=???", "condition.image=??? is Hydra's mark"),
    ("condition.image=[a.png,???]", "condition.image=??? is Hydra's mark"),
    (f"prompt=@{'f' * 300}", "prompt=@fff"),
]


@pytest.mark.parametrize(("word", "message"), REFUSED)
def test_a_word_that_means_nothing_is_refused_with_the_choices(word: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        read([word], [CONF])
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


UNREADABLE = [
    ("gate.tau=(0.2", ["gate.tau=(0.2 cannot be read", "(gate.tau)"]),
    ("gate.tau=0.2)", ["gate.tau=0.2) cannot be read", "quote the value"]),
    ("tracker.project=it's", ["tracker.project=it's cannot be read", "(tracker.project)"]),
    ("study.images=[1", ["study.images=[1 cannot be read"]),
    ("+gate.tau=${a", ["gate.tau=${a cannot be read", "(gate.tau)"]),
    ("gate.tau=choice(1", ["gate.tau=choice(1 cannot be read"]),
    ("gate.tau", ["gate.tau has no value: give gate.tau=..."]),
    ("tau=0.2", ["tau is unknown: did you mean gate.tau?"]),
    ("cycles=20", ["cycle.cycles"]),
    ("doctro", ["doctro has no value, and is no command: did you mean doctor?"]),
    ("a cat in a hat", ["'a cat in a hat' has no key", "prompt='...'"]),
    ("seed=1,2", ["seed=1,2 has a comma", "sweep with -m"]),
    ("seed=range(0,3)", ["seed=range(0,3) is a sweep: add -m"]),
    ("prompt=choice(a,b)", ["is a sweep: add -m", "(prompt)"]),
    ("condition.attributes.hat=x", ["condition.attributes.hat=x", "none, cap, straw hat, top hat"]),
    ("condition.attributes.hut=cap", ["condition.attributes has no hut", "hat"]),
    ("condition.attributes={hut: cap}", ["condition.attributes.hut is unknown"]),
    ("calibration.preservation={x: 1}", ["calibration.preservation.x is unknown"]),
    ("hydra.sweeper=x", ["hydra.sweeper is x", "hydra/sweeper=.."]),
    ("hydra.launcher=x", ["hydra.launcher is x"]),
    (
        "condition.attributes=[a]",
        ["condition.attributes=[a] does not fit what is there", "(condition.attributes)"],
    ),
    ("+model._target_=os.system", ["is there already: leave the + out", "(model._target_)"]),
    ("+seed=3", ["seed is there already: leave the + out", "(seed)"]),
    ("~gate.tau=5", ["0.273 and not 5", "(gate.tau)"]),
    ("hydra.run=3", ["hydra.run=3 does not fit what is there", "(hydra.run)"]),
    ("hydra.job=null", ["hydra.job=null does not fit what is there", "(hydra.job)"]),
    ("hydra.mode=${oc.env:HOME}", ["expected one of [RUN, MULTIRUN]", "(hydra.mode)"]),
    ("hydra.run=${oc.env:HOME}", ["hydra.run is no section", "(hydra.run)"]),
    ("hydra.sweep=${oc.env:HOME}", ["(hydra.sweep)"]),
    ("hydra.mode=nope", ["hydra.mode=nope does not fit what is there", "(hydra.mode)"]),
    ("hydra.verbose=nope", ["hydra.verbose=nope is neither", "(hydra.verbose)"]),
    ("hydra.verbose=null", ["hydra.verbose=None is neither", "(hydra.verbose)"]),
    ("gate.tau=${oc.env:NOT_THERE}", ["NOT_THERE", "(gate.tau)"]),
    ("gate.tau=${nope}", ["Interpolation key 'nope' not found", "(gate.tau)"]),
    ("+experiment=debug", ["Multiple values for experiment", "(experiment)"]),
    ("condition.box=[0,0,inf,20]", ["need [x, y, width, height]", "(condition.box)"]),
    ("condition.box=[true,true,40,40]", ["need [x, y, width, height]", "(condition.box)"]),
    ("planner.boxes=[[0,0,1e400,20]]", ["need boxes", "(planner.boxes)"]),
    ("planner.around=[0,0,inf,1]", ["not finite", "(planner.around)"]),
    ("condition.size=100000", ["need 16 <= size <= 4096", "(condition.size)"]),
    ("condition.count=100000", ["need 1 <= count <= 64", "(condition.count)"]),
    (f"hydra.job.name={'a' * 300}", ["300 bytes", "(hydra.job.name)"]),
    ("condition.attributs.hat=cap", ["condition.attributs", "condition.attributes"]),
    ("paths=null", ["paths.outputs has no value", "(paths.outputs)"]),
    ("paths.outputs=null", ["paths.outputs has no value"]),
    ("~paths", ["paths.outputs has no value"]),
    ("~paths.outputs", ["paths.outputs has no value"]),
    ("paths={outputs: null}", ["paths.outputs has no value"]),
    ("paths.null=", ["paths.null is unknown", "paths.outputs"]),
    ("paths={}", ["paths={} changes nothing", "~paths.outputs", "(paths)"]),
    ("condition.attributes={}", ["condition.attributes={} changes nothing", "(condition.attributes)"]),
    ("++condition.attributes={ }", ["changes nothing", "(condition.attributes)"]),
    ("calibration.preservation={}", ["~calibration.preservation.normal", "(calibration.preservation)"]),
    ("calibration.preservation={normal: {}}", ["changes nothing", "(calibration.preservation.normal)"]),
    ("cache={}", ["cache={} changes nothing", "(cache)"]),
    ("hydra.callbacks={}", ["hydra.callbacks={} changes nothing", "(hydra.callbacks)"]),
    *(
        (f"{key}=~nosuchuser/x", [f"{key}=~nosuchuser/x: there is no home folder of ~nosuchuser", f"({key})"])
        for key in ("paths.outputs", "cache.folder", "hydra.run.dir", "hydra.sweep.dir")
    ),
]


@pytest.mark.parametrize(("word", "parts"), UNREADABLE)
def test_errors_of_hydras_parser_name_key_and_cure(word: str, parts: list[str]) -> None:
    with pytest.raises(UserError) as error:
        compose(["model=tiny", "planner=fixed", "condition=person", word])
    assert "\n" not in str(error.value)
    for part in parts:
        assert part in str(error.value)


# Addresses of servers, as people type them; `${..}` is read: a password may come from the environment.

ADDRESSES = [
    ("http://localhost:11434/v1", "http://localhost:11434/v1"),
    ("https://me:a=b,c@host/v1", "https://me:a=b,c@host/v1"),
    ("https://host/a=b/(v1),[2]/{x}", "https://host/a=b/(v1),[2]/{x}"),
    ("https://me:p%23w%3F@host:8443/v1", "https://me:p%23w%3F@host:8443/v1"),
    ("'https://host/v1'", "https://host/v1"),
    ("https://me:${oc.env:MINE}@host/v1", "https://me:pass=word@host/v1"),
    ("https://host/~me/it's", "https://host/~me/it's"),
    ("null", None),
]


@pytest.mark.parametrize(("typed", "meant"), ADDRESSES)
def test_an_address_is_taken_as_typed(typed: str, meant: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINE", "pass=word")
    words = read([f"planner.base_url={typed}"], [])
    assert read(words, []) == words
    found = compose(["model=tiny", "planner=openai", "planner.model=x", f"planner.base_url={typed}"])
    assert found.planner.base_url == meant  # type: ignore[attr-defined]


def test_addresses_are_swept() -> None:
    (word,) = read(["planner.base_url=choice(http://a/v1,'http://b/v1')"], [])
    assert word == "planner.base_url=choice('http://a/v1','http://b/v1')"
    assert from_sweeper(r"planner.base_url=http\://a/x\=1", True) == "planner.base_url='http://a/x=1'"
    assert from_sweeper("planner.base_url=null", True) == "planner.base_url=null"


AT_HOME = [
    ["planner=replay", "planner.path"],
    ["planner=gemini", "planner.store"],
    ["planner=gemini", "planner.prompt_version"],
    ["planner=offline", "planner.tokenizer"],
    ["condition=photo", "condition.image"],
    ["condition=photo", "condition.image=a.png", "condition.mask"],
    ["data=folder", "data.root"],
    ["data=folder", "data.root=.", "data.prompts"],
    ["data=celeba_tv2i", "data.root"],
    ["model=local", "model.path"],
    ["model=people", "model.unet_path"],
    ["metrics=faces", "metrics.weights"],
    ["metrics=clip", "metrics.pretrained"],
    ["metrics=clip", "metrics.cache_dir"],
    ["method=controlnet_canny", "method.path"],
    ["method=controlnet_inpaint", "method.controlnet"],
    ["method=ip_adapter", "method.path"],
    ["method=dreambooth", "method.cache"],
    ["study=collect", "study.folder"],
    ["study=claims", "study.tables"],
    ["study=memorisation", "study.training"],
    ["study=gallery", "study.runs"],
    ["study=preference_tally", "study.answers=a", "study.key"],
    ["study=train_judge", "study.start"],
    ["study=train_controlnet", "study.output"],
]


@pytest.mark.parametrize("words", AT_HOME, ids=" ".join)
def test_the_home_of_nobody_is_refused_by_key(words: list[str]) -> None:
    *others, key = words
    for value in ("~nosuchuser/x", "~nosuchuser"):
        with pytest.raises(UserError) as error:
            compose(["tracker=none", *others, f"{key}={value}"])
        assert str(error.value).startswith(f"{key}={value}: there is no home folder of ~nosuchuser")
        assert str(error.value).endswith(f"({key})")


def test_home_is_written_out_where_hydra_writes() -> None:
    from sow.config.loader import application

    words = ["model=tiny", "paths.outputs=~/my runs", "hydra.sweep.dir=~/a (b)"]
    config = application((), words).compose_config("config", words, RunMode.RUN)
    assert config.paths.outputs == f"{Path.home()}/my runs"
    assert config.hydra.run.dir.startswith(f"{Path.home()}/my runs/")
    assert config.hydra.sweep.dir == f"{Path.home()}/a (b)"


def test_a_name_of_no_repository_is_read_as_one_that_is_not_there() -> None:
    from sow.store.inputs import hub_revision

    for name in ("~nosuchuser/x", "./nosuch", "a b/c", "../x", "-a/b"):
        assert hub_revision(name, "config.json") == {}


def test_a_list_of_options_in_a_file_is_refused(tmp_path: Path) -> None:
    from sow.config.loader import application

    (tmp_path / "mine").mkdir()
    for group, options in (("gate", "[region, always]"), ("cycle", "[cyclic, once]"), ("metrics", "[none]")):
        (tmp_path / "mine" / "two.yaml").write_text(
            f"# @package _global_\ndefaults:\n  - override /{group}: {options}\n"
        )
        with pytest.raises(UserError, match=f"{group} is given a list of options in a file"):
            application([tmp_path], []).compose_config("config", ["+mine=two", "model=tiny"], RunMode.RUN)


def test_memory_that_runs_out_while_composing_is_one_line(
    command_line: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra.core.override_parser.overrides_parser import OverridesParser

    import sow.config.loader
    import sow.runs.folders

    def full(*values: object, **named: object) -> None:
        raise MemoryError

    for owner, name in (
        (ConfigLoaderImpl, "load_configuration"),
        (ConfigLoaderImpl, "_load_single_config"),
        (OverridesParser, "parse_overrides"),
        (sow.config.loader, "refuse_foreign"),
        (sow.config.loader, "read"),
        (sow.runs.folders, "_place"),  # within a callback, whose exceptions Hydra makes warnings of
        (sow.runs.folders, "_make"),
    ):
        for mode in ([], ["-m"]):
            with monkeypatch.context() as patched:
                patched.setattr(owner, name, full)
                patched.setattr(sow.runs.folders, "discard_unstarted", full)
                result = command_line(*mode, "model=tiny", "study=plan", "tracker=none")
            assert result.status == 1 and result.err.count("\n") == 1, (name, result.err)
            assert result.err.startswith("error: ") and "memory" in result.err


FLAGS = [
    (["--seed=1"], "--seed=1: words are key=value"),
    (["-seed", "1"], "words are key=value"),
    (["--cfg", "jobs"], "invalid choice: 'jobs'"),
    (["--config-dir", "nowhere"], "nowhere is no folder of configurations (--config-dir)"),
    (["--experimental-rerun", "run.pickle"], "--experimental-rerun runs a pickle"),
    (["-m", "seed=range(0,0)"], "seed=range(0,0) holds no value: name those to sweep over (seed)"),
    (
        ["-m", "seed=range(0,10000000000)"],
        "makes a sweep of more than 100,000 jobs: name fewer values",
    ),
    (["-m", "seed=range(0,1000)", "gate.tau=range(0,1,0.001)"], "more than 100,000 jobs"),
    (["-m", "gate.tau=glob(*)"], "gate.tau=glob(*) holds no value"),
    (
        ["tracker=none", "tracker.project=x"],
        "project is not of the tracker that is chosen: add tracker=wandb (tracker.project)",
    ),
    (
        ["condition.image=face.png"],
        "image is not of the condition that is chosen: add condition=photo (condition.image)",
    ),
    (["seed", "1"], "seed has no value: give seed=... (seed)"),
    (["=1"], "=1 has no key: words are key=value"),
    (["hydra/launcher=3"], "hydra/launcher=3 is no option: name one (hydra/launcher)"),
    (["hydra/launcher=nope"], "hydra/launcher=nope is no option: choose one of"),
]


@pytest.mark.parametrize(("words", "part"), FLAGS, ids=str)
def test_a_flag_that_means_nothing_is_one_line(words: list[str], part: str, command_line: Call) -> None:
    result = command_line(*words)
    assert result.status == 1 and result.err.count("\n") == 1 and part in result.err


def test_what_is_shown_is_read_like_what_is_run(command_line: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_PROJECT", "a-name-of-mine")
    words = (
        "model=tiny",
        "prompt=costs ${five}, (really)",
        "tracker.project=${oc.env:MY_PROJECT}",
        "ablation=no_dam",
    )
    shown = command_line("--cfg", "job", "--resolve", *words)
    assert shown.status == 0, shown.err
    assert "prompt: costs ${five}, (really)" in shown.out and "project: '***'" in shown.out
    assert "NoModulation" in shown.out and "a-name-of-mine" not in shown.out


def test_every_free_text_key_exists() -> None:
    """In the options that have it; a renamed field must be renamed here."""
    texts = {
        group: "\n".join(file.read_text() for file in (CONF / group).glob("*.yaml"))
        for group in {key.partition(".")[0] for key in FREE_TEXT if "." in key}
        if (CONF / group).is_dir()
    }
    main = (CONF / "config.yaml").read_text()
    for key in FREE_TEXT:
        group, _, field = key.partition(".")
        assert f"{field.rpartition('.')[2] or group}:" in texts.get(group, main), key
    assert not set(PROMPTS) & set(PATHS)


def test_elements_are_parted_at_their_own_commas() -> None:
    assert elements("a, 'b, c', [d, e], it's, (f, g)") == ["a", "'b, c'", "[d, e]", "it's", "(f, g)"]
