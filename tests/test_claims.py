"""What the paper claims, held against tables that were made up so that the answer is known."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from experiments.claims import Claims, markdown
from sow import compose
from sow.errors import UserError

KEPT = Path(__file__).parent / "kept/table"
ROOT = Path(__file__).parent.parent
WORTH = {"worth": 0.05}


def table(folder: Path, means: dict[str, float], spread: float, n: int = 200, split: str = "test") -> Path:
    """A run folder of the table `name`, of n groups, two for each prompt."""
    import pandas

    folder.mkdir(parents=True)
    manifest = json.loads((KEPT / "manifest.json").read_text())
    manifest["config"]["study"] |= {"name": "table2", "split": split}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    rng = np.random.default_rng(0)
    common = rng.normal(0, 1, n)
    records = [
        {"row": row, "group": f"g{g}", "seed": 0, "id_distance": common[g] + mean + spread * rng.normal()}
        for row, mean in means.items()
        for g in range(n)
    ]
    pandas.DataFrame(records).to_parquet(folder / "records.parquet")
    pandas.DataFrame([{"row": "a", "names": "g0-0", "seconds": 1.0}]).to_parquet(folder / "seconds.parquet")
    spec = json.loads((KEPT / "table.json").read_text()) | {"units": "prompt"}
    (folder / "table.json").write_text(json.dumps(spec))
    shutil.copy(KEPT / "rows.json", folder)
    groups = [{"id": f"g{g}", "prompt": f"p{g // 2}"} for g in range(n)]
    (folder / "groups.json").write_text(json.dumps(groups))
    return folder


def study(place: Path, *claims: dict[str, Any]) -> Claims:
    stated = {
        f"c{i}": {"says": f"claim {i}", "source": "Sec. 1", "table": "table2", "metric": "id_distance"} | c
        for i, c in enumerate(claims)
    }
    return Claims(str(place), "test", 0.95, 1000, 0, False, stated)


def test_what_is_known_is_said(tmp_path: Path) -> None:
    table(tmp_path / "run", {"a": 0.0, "b": 0.2, "c": 0.2, "wide": 0.25}, 0.02)
    found = study(
        tmp_path,
        {"row": "a", "against": "b", "is": "lower", **WORTH},
        {"row": "b", "against": "a", "is": "lower", **WORTH},
        {"row": "b", "against": "c", "is": "lower", **WORTH},
        {"row": "b", "against": "c", "is": "same", **WORTH},
        {"row": "a", "against": "b", "is": "same", **WORTH},
        {"row": "wide", "against": "b", "is": "same", **WORTH},
        {"row": "a", "against": "b", "is": "not higher", **WORTH},
        {"row": "a", "against": "b", "is": "not lower", **WORTH},
        {"row": "wide", "against": "b", "is": "not higher", **WORTH},
        {"row": "a", "against": "nobody", "is": "lower", **WORTH},
        {"row": "a", "against": "b", "is": "lower", "table": "table3", **WORTH},
    ).outcomes()
    words = (
        "supported,contradicted,not supported,supported,contradicted,undecided,supported,contradicted,"
        "undecided,not measured,not measured"
    )
    assert [o.verdict for o in found] == words.split(",")
    assert found[0].difference is not None and found[0].difference.groups == 200
    text = markdown(found, 0.95, "test")
    assert text.count("\n| ") == 12 and "not measured" in text


@pytest.mark.parametrize(("share", "verdict"), [(1.0, "undecided"), (0.5, "supported"), (0.0, "undecided")])
def test_a_gate_that_never_moves_decides_nothing(tmp_path: Path, share: float, verdict: str) -> None:
    import pandas

    run = table(tmp_path / "run", {"a": 0.0, "b": 0.2}, 0.02)
    records = pandas.read_parquet(run / "records.parquet")
    records.assign(open_gates=share).to_parquet(run / "records.parquet")
    claim = {"row": "a", "against": "b", "is": "lower", "mixed": "open_gates", **WORTH}
    assert [o.verdict for o in study(tmp_path, claim).outcomes()] == [verdict]


def test_too_few_groups_decide_nothing(tmp_path: Path) -> None:
    table(tmp_path / "run", {"a": 0.0, "b": 0.05}, 0.5, n=20)
    (found,) = study(tmp_path, {"row": "a", "against": "b", "is": "lower", **WORTH}).outcomes()
    assert found.verdict == "undecided" and found.detectable > 0.2


def test_tables_of_the_split_that_was_tuned_on_do_not_count(tmp_path: Path) -> None:
    table(tmp_path / "run", {"a": 0.0, "b": 0.2}, 0.02, split="validation")
    asked = study(tmp_path, {"row": "a", "against": "b", "is": "lower", **WORTH})
    with pytest.raises(UserError, match="no complete run of table2 on the test split"):
        asked.outcomes()


def test_the_shipped_claims_name_rows_and_columns_that_exist() -> None:
    claims = yaml.safe_load((ROOT / "conf/study/claims.yaml").read_text())["claims"]
    parsed = Claims("x", "test", 0.95, 1000, 0, False, claims).parsed
    tables = {name: compose([f"experiment={name}"]).study for name in {c.table for c in parsed}}
    for claim in parsed:
        of = tables[claim.table]
        assert of.name == claim.table and {claim.row, claim.against} <= {r.name for r in of.shown}, claim.name
        assert claim.metric in {c["metric"] for c in of.columns}, claim.name


@pytest.mark.parametrize(
    ("claim", "words"),
    [
        ({"row": "a", "against": "b", "is": "bigger", **WORTH}, "bigger"),
        ({"row": "a", "against": "b", "is": "lower"}, "worth has no value"),
        ({"row": "a", "against": "b", "is": "lower", "worth": -1.0}, "worth"),
    ],
)
def test_a_claim_that_cannot_be_is_named(tmp_path: Path, claim: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        _ = study(tmp_path, claim).parsed


def test_a_claim_names_the_models_of_its_own_rows(tmp_path: Path) -> None:
    folder = table(tmp_path / "run", {"a": 0.0, "b": 0.2, "flow": 0.2}, 0.02)
    rows = [{"name": n, "overrides": []} for n in "ab"] + [
        {"name": "flow", "overrides": ["model=people_flow"]}
    ]
    (folder / "rows.json").write_text(json.dumps(rows))
    alone = study(tmp_path, {"row": "a", "against": "b", "is": "lower", **WORTH}).outcomes()
    assert "On model tiny, test split." in markdown(alone, 0.95, "test")
    both = study(tmp_path, {"row": "a", "against": "flow", "is": "lower", **WORTH}).outcomes()
    assert "On model tiny and people_flow, test split." in markdown(both, 0.95, "test")
