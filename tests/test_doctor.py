"""`sow doctor` says what is there and what is missing, each with its cure, and no key's value."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import pytest
from rich.console import Console

import sow.people
from experiments import doctor

SECRET = "sk-nobody-may-see-this-0123456789"


def told() -> tuple[int, str]:
    out = io.StringIO()
    status = doctor.doctor(Console(file=out, width=200))
    return status, out.getvalue()


def test_everything_here_is_well_and_no_key_is_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    monkeypatch.delenv("GEMINI_API_KEY", raising=False)
    status, text = told()
    assert status == 0, text
    rows = {line.split("\u2502")[2].strip(): line for line in text.splitlines() if line.count("\u2502") > 3}
    assert "set" in rows["OPENAI_API_KEY"] and "not set" in rows["GEMINI_API_KEY"]
    assert "planner=gemini" in rows["GEMINI_API_KEY"] and SECRET not in text
    assert all("whole" in rows[f"embedded {name}"] for name in ("weights", "judge", "controlnet"))
    assert list(tmp_path.iterdir()) == []


def test_damaged_and_missing_weights_are_bad(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    home = Path(sow.people.__file__).parent
    for name in ("weights", "judge"):
        shutil.copytree(home / name, tmp_path / name)
    file = tmp_path / "judge" / "weights.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    monkeypatch.setattr(sow.people, "__file__", str(tmp_path / "__init__.py"))
    found = {f.what: f for f in doctor._weights()}
    states = [found[f"embedded {name}"].state for name in ("weights", "judge", "controlnet")]
    assert states == ["ok", "bad", "bad"] and found["embedded judge"].cure


def test_lora_files_are_listed_whole_or_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    monkeypatch.chdir(tmp_path)
    (tmp_path / "loras").mkdir()
    state = {"unet.a.lora_A.weight": torch.zeros(2, 4), "unet.a.lora_B.weight": torch.zeros(4, 2)}
    save_file(state, tmp_path / "loras" / "whole.safetensors")
    save_file({"unet.a.lora_A.weight": torch.zeros(2, 4)}, tmp_path / "half.safetensors")
    save_file({"conv_in.weight": torch.zeros(2, 4)}, tmp_path / "other.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "half.safetensors").read_bytes()[:-4])
    found = {f.what: f for f in doctor._loras()}
    assert found.keys() == {"LoRA loras/whole.safetensors", "LoRA half.safetensors", "LoRA cut.safetensors"}
    assert "whole, 1 layers" in found["LoRA loras/whole.safetensors"].found
    assert "1 missing (unet.a.lora_B.weight)" in found["LoRA half.safetensors"].found
    assert "cut short" in found["LoRA cut.safetensors"].found


def test_no_network_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    (found,) = doctor._network(refused)  # type: ignore[arg-type]
    assert found.state == "note" and "unreachable" in found.found and "model=people" in found.cure


def test_a_check_that_breaks_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "LIBRARIES", ("no-such-library",))
    missing = {f.what: f for f in doctor._versions()}["no-such-library"]
    assert missing.state == "bad" and missing.cure
    monkeypatch.setattr(doctor, "_memory", lambda: 1 / 0)
    monkeypatch.setattr(doctor._memory, "__name__", "_memory", raising=False)
    assert any(f.state == "bad" and "ZeroDivisionError" in f.found for f in doctor.examine())


def test_it_is_a_word_of_the_command(command_line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "doctor", lambda: 7)
    import run

    monkeypatch.setattr("sys.argv", ["run.py", "doctor"])
    assert run.command_line() == 7
