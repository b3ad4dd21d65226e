"""Records tests/fixtures/classify: a small classification model as transformers saves it, and its scores.

    pip install torch==2.15.0 transformers==5.23.0 safetensors==0.8.0
    python tests/record/heads.py

The weights are those of tests/record/record.py, drawn anew for these sizes. golden.safetensors has, for each of the prompts
0, 1, …: `{i}.ids` i64 [tokens] and `{i}.scores` f32 [labels], the logits of JambaForSequenceClassification in f32.
"""

import json
import pathlib
import random

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import JambaConfig, JambaForSequenceClassification

from record import BASE_CONFIG, random_parameter

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "fixtures" / "classify"
SIZES = dict(
    hidden_size=40, intermediate_size=64, num_hidden_layers=4, vocab_size=150, num_attention_heads=4, num_key_value_heads=2,
    attn_layer_period=4, attn_layer_offset=1, expert_layer_period=2, expert_layer_offset=1, num_experts=3, mamba_dt_rank=4,
    mamba_d_state=8, id2label={0: "calm", 1: "joy", 2: "anger"}, label2id={"calm": 0, "joy": 1, "anger": 2},
)  # fmt: skip
LENGTHS = (1, 5, 33, 90)


@torch.no_grad()
def main():
    torch.set_num_threads(1)
    config = JambaConfig(**{key: value for key, value in BASE_CONFIG.items() if key != "architectures"} | SIZES)
    model = JambaForSequenceClassification(config).float().eval()
    FOLDER.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(FOLDER)
    generator = torch.Generator().manual_seed(505)
    stored = load_file(FOLDER / "model.safetensors")
    drawn = {name: random_parameter(name, stored[name].shape, generator) for name in sorted(stored)}
    save_file(drawn, FOLDER / "model.safetensors", metadata={"format": "pt"})
    model, info = JambaForSequenceClassification.from_pretrained(
        FOLDER, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    assert not any(info.values()), info
    rng, golden = random.Random(505), {}
    for index, length in enumerate(LENGTHS):
        ids = [rng.randrange(3, config.vocab_size) for _ in range(length)]
        golden[f"{index}.ids"] = torch.tensor(ids)
        golden[f"{index}.scores"] = model.eval()(torch.tensor([ids])).logits[0].contiguous()
        print(length, golden[f"{index}.scores"].tolist())
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    save_file(golden, FOLDER / "golden.safetensors", metadata={"recorded": json.dumps(versions)})


if __name__ == "__main__":
    main()
