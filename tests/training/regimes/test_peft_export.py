from pathlib import Path
from typing import Any

import pytest
import torch
from language_model_families import FAMILIES, families
from torch import Tensor, nn

from training.regimes import apply_regime
from training.regimes.config import LoraRegime, PromptRegime
from training.regimes.peft_export import peft_files


def language_model(family: str) -> Any:
    torch.manual_seed(0)
    return families()[family]().requires_grad_(False).eval()


def write_adapter(folder: Path, config: LoraRegime | PromptRegime, family: str) -> tuple[Any, nn.Module | None]:
    """A model that looks trained, its adapter written to the folder; (language model, soft prompt)."""
    model = language_model(family)
    soft_prompt = apply_regime(config, model, seed=0)
    whole = nn.ModuleDict({"mapper": nn.Linear(2, 2), "lm": model})
    if soft_prompt is not None:
        whole["soft_prompt"] = soft_prompt
    trained = {name: parameter for name, parameter in whole.named_parameters() if parameter.requires_grad}
    with torch.no_grad():
        for parameter in trained.values():
            parameter.normal_(std=0.3)
    state: dict[str, Tensor] = {name: parameter.detach().clone() for name, parameter in trained.items()}
    for name, data in peft_files(config, state).items():
        (folder / name).write_bytes(data)
    return model, soft_prompt


def lora(family: str, **fields: Any) -> LoraRegime:
    default = {"target_modules": ("q_proj", "v_proj")} if family == "smollm3" else {}
    return LoraRegime.model_validate({"kind": "lora", "learning_rate": 1e-3, "rank": 4, **default, **fields})


@pytest.mark.parametrize(
    "fields", [{}, {"target_modules": "all-linear", "alpha": 3, "dropout": 0.5}], ids=["default", "all"]
)
@pytest.mark.parametrize("family", FAMILIES)
def test_plain_peft_loads_a_lora_and_computes_the_same(tmp_path: Path, family: str, fields: dict[str, Any]) -> None:
    from peft import PeftModel

    model, _ = write_adapter(tmp_path, lora(family, **fields), family)
    plain = PeftModel.from_pretrained(language_model(family), tmp_path)
    tokens_BL = torch.randint(3, 101, (2, 7))
    found, base = plain(tokens_BL).logits, language_model(family)(tokens_BL).logits
    torch.testing.assert_close(found, model(tokens_BL).logits, atol=0, rtol=0)
    assert not torch.allclose(found, base, atol=1e-2)


@pytest.mark.parametrize("family", FAMILIES)
def test_plain_peft_loads_a_soft_prompt_and_computes_the_same(tmp_path: Path, family: str) -> None:
    from peft import PeftModel

    config = PromptRegime(kind="prompt", learning_rate=1e-2, num_tokens=3)
    model, soft_prompt = write_adapter(tmp_path, config, family)
    assert soft_prompt is not None
    plain = PeftModel.from_pretrained(language_model(family), tmp_path)
    tokens_BL = torch.randint(3, 101, (2, 7))
    inputs_BLD = torch.cat([soft_prompt().expand(2, -1, -1), model.get_input_embeddings()(tokens_BL)], dim=1)
    expected = model(inputs_embeds=inputs_BLD).logits
    torch.testing.assert_close(plain(tokens_BL).logits[:, -7:], expected[:, -7:], atol=1e-6, rtol=0)


def test_the_files_hold_the_trained_parameters_and_the_same_bytes_each_time(tmp_path: Path) -> None:
    from safetensors.torch import load

    state = {"mapper.weight": torch.ones(2), "lm.model.a.lora_A.default.weight": torch.ones(4, 2)}
    state |= {"lm.model.a.lora_B.default.weight": torch.ones(2, 4)}
    files = peft_files(lora("llama"), state)
    assert files == peft_files(lora("llama"), dict(reversed(state.items())))
    names = {f"base_model.model.model.a.lora_{side}.weight" for side in "AB"}
    assert set(load(files["adapter_model.safetensors"])) == names
