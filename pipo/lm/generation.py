"""Read a model folder's generation config: stop tokens (EOS), and fields that contradict each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import GenerationConfig
from transformers.utils.hub import cached_file

from pipo.errors import ModelError
from pipo.lm.model_files import read_object

GENERATION_FILE, CONFIG_FILE = "generation_config.json", "config.json"
# First, so that what contradicts them goes and they stay.
_TOKENS = ("eos_token_id", "pad_token_id", "bos_token_id")
# Where a model of several parts keeps what its text decoder says.
_TEXT_PARTS = ("decoder", "generator", "text_config")


def declared_generation(path: str) -> GenerationConfig:
    """What ``generate()`` goes by, contradictions included: the generation configuration, else the model's.

    Args:
        path: a Hugging Face folder or a hub id.

    Raises:
        ModelError: one of the files is damaged.
    """
    fields = _fields(path, GENERATION_FILE)
    if fields is None:
        known = GenerationConfig().to_dict()
        fields = {name: value for name, value in _model_fields(path).items() if name in known}
    fields = {name: value for name, value in fields.items() if name != "transformers_version"}
    try:
        return GenerationConfig(**fields)
    except (ValueError, TypeError, AttributeError):  # contradictory: without its checks, for whoever mends it
        config = GenerationConfig()
        for name, value in fields.items():
            setattr(config, name, value)
        return config


def declared_stops(path: str) -> set[int]:
    """The end-of-sequence tokens that a model names; of ``config.json`` where nothing else names any.

    Raises:
        ModelError: a file is damaged, or names something that is no token.
    """
    for name, fields in (
        (GENERATION_FILE, _fields(path, GENERATION_FILE)),
        (CONFIG_FILE, _model_fields(path)),
    ):
        listed = (fields or {}).get("eos_token_id")
        tokens = [] if listed is None else listed if isinstance(listed, list) else [listed]
        odd = [
            token for token in tokens if not isinstance(token, int) or isinstance(token, bool) or token < 0
        ]
        if odd:
            raise ModelError(f"model.path={path}: {name}: eos_token_id must be token ids, got {listed!r:.80}")
        if tokens:
            return set(tokens)
    return set()


def without_contradictions(config: GenerationConfig) -> tuple[GenerationConfig, list[str]]:
    """A generation configuration that transformers agrees to save, and the fields that it lacks for that.

    A field is left out when it contradicts those before it, the tokens first: a temperature without
    sampling, for example, which some published models have.
    """
    sound, left_out = type(config)(), []
    fields = config.to_dict()
    others = [name for name in fields if name not in (*_TOKENS, "do_sample", "num_beams")]
    for name in (*_TOKENS, "do_sample", "num_beams", *others):
        default = getattr(sound, name, None)
        value = getattr(config, name, None)
        if value is None or value == default:
            continue
        setattr(sound, name, value)
        try:
            sound.validate(strict=True)
        except (ValueError, TypeError, AttributeError):  # contradictory, or not of the type that it must be
            setattr(sound, name, default)
            left_out.append(f"{name}={value!r:.40}")
    return sound, left_out


def _model_fields(path: str) -> dict[str, Any]:
    """The fields of ``config.json``, with those of the text decoder where the outer ones are not set."""
    outer = _fields(path, CONFIG_FILE) or {}
    part = next((outer[name] for name in _TEXT_PARTS if isinstance(outer.get(name), dict)), {})
    flags = GenerationConfig.extra_output_flags  # what a forward pass gives out is no matter of generating
    fields = {**part, **{name: value for name, value in outer.items() if value is not None}}
    return {name: value for name, value in fields.items() if name not in flags}


def _fields(path: str, name: str) -> dict[str, Any] | None:
    """A file of JSON of the model; None where it has none."""
    folder = Path(path).expanduser()
    if folder.is_dir():
        file = folder / name
        if not file.is_file():
            return None
    else:
        found = cached_file(
            path,
            name,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
        if found is None:
            return None
        file = Path(found)
    return read_object(path, file)
