"""The only door to TransformerLens: loading a chat model, checking it, saying what it is and what is on."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from workbench.errors import ModelError, nearest
from workbench.hardware import best_device, best_dtype, check_memory
from workbench.provenance import Provenance
from workbench.store import home
from workbench.weights import MODELS, fetch_weights, sha256

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import PreTrainedTokenizerBase

SITES = {
    "resid": "blocks.{layer}.hook_out",
    "attn": "blocks.{layer}.attn.hook_out",
    "mlp": "blocks.{layer}.mlp.hook_out",
}
"""Hook sites by name: residual stream after the block, output of its attention, output of its MLP."""

_provenance: weakref.WeakKeyDictionary[Any, Provenance] = weakref.WeakKeyDictionary()
_changes: weakref.WeakKeyDictionary[Any, tuple[str, ...]] = weakref.WeakKeyDictionary()


def load_model(
    name: str | Path,
    device: str | None = None,
    dtype: torch.dtype | None = None,
    *,
    device_map: str | None = None,
    revision: str | None = None,
    remote_code: bool = False,
) -> TransformerBridge:
    """Load a chat model as a TransformerBridge with raw Hugging Face weights, checked to be what this package thinks.

    Args:
        name: an alias in `MODELS`, a hub id, a local folder, or a local GGUF file.
        device: `cuda`, `mps`, `cpu`, ...; by default the best there is.
        dtype: by default bfloat16 where the hardware is fast at it, float32 elsewhere.
        device_map: `auto` or `balanced` spreads the model over several GPUs (excludes `device`).
        revision: commit, branch or tag on the hub.
        remote_code: run code that comes with the model; off unless you trust it.

    Returns:
        The bridge itself. Its tokenizer pads on the left, for generation.

    Raises:
        ModelError: unknown name, gated model, no chat template, too little memory, or a model whose sites are not where
            they should be.
    """
    if device and device_map:
        raise ModelError("Give either device or device_map, not both: device_map chooses the devices itself.")
    device = device or best_device()
    dtype = dtype or best_dtype(device)
    where, source, layer_name = _resolve(name, revision)
    check_memory(where, device, dtype)
    hf_model, tokenizer = _load_hf(where, device, dtype, device_map, revision, remote_code)
    if not tokenizer.chat_template:
        raise ModelError(
            f"A chat model must have a chat template; the tokenizer of {name} has none. Use the instruction-tuned "
            "version of the model, or set tokenizer.chat_template in its folder."
        )
    return _bridge(hf_model, tokenizer, layer_name, source, device, dtype)


def prepare(name: str | Path) -> Path | str:
    """Fetch and unpack what `load_model(name)` reads, without loading it; returns the folder or hub id."""
    return _resolve(name, None)[0]


def load_tokenizer(name: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a model, without its weights."""
    from transformers import AutoTokenizer

    with _quiet():
        return AutoTokenizer.from_pretrained(prepare(name))


def describe(model: TransformerBridge) -> Provenance:
    """The provenance of a loaded model: what every artefact made with it carries."""
    if model not in _provenance:
        raise ModelError("The model must come from load_model, so that what it is can be recorded with its numbers.")
    return _provenance[model]


def _resolve(name: str | Path, revision: str | None) -> tuple[Path | str, str, str]:
    """(folder or hub id to load from, words on the source, name to keep)."""
    text = str(name)
    if text in MODELS:
        weights = MODELS[text]
        if weights.file:
            path = fetch_weights(text)
            return _dequantised(path, weights.sha256), f"{weights.hub}/{weights.file} sha256:{weights.sha256}", text
        return weights.hub, f"{weights.hub}@{revision or 'main'}", text
    path = Path(text).expanduser()
    if path.is_file() and path.suffix == ".gguf":
        digest = sha256(path)
        return _dequantised(path, digest), f"{path.name} sha256:{digest}", path.stem
    if path.is_dir():
        return path, f"local folder {path.name}", path.name
    if text.count("/") == 1 and not text.startswith((".", "/", "~")):
        return text, f"{text}@{revision or 'main'}", text
    raise ModelError(
        f"A model must be an alias, a hub id (owner/name), a local folder or a GGUF file; got {text!r}. "
        + nearest(text, MODELS)
    )


def _dequantised(gguf: Path, digest: str) -> Path:
    """A folder with the weights of a GGUF file in float32, made once: from GGUF a load takes half a minute."""
    folder = home() / "models" / f"{gguf.stem}-{digest[:12]}"
    if (folder / "config.json").exists():
        return folder
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=".dequantising-", dir=folder.parent))
    try:
        with _quiet():
            tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
            model = AutoModelForCausalLM.from_pretrained(
                gguf.parent,
                gguf_file=gguf.name,
                dtype=torch.float32,
                quantization_config=GgufConfig(dequantize=True),
            )
            tokenizer.save_pretrained(partial)
            model.save_pretrained(partial)
        with contextlib.suppress(OSError):  # another process finished first: its folder is as good
            os.rename(partial, folder)
    except OSError as error:
        raise ModelError(f"The weights of {gguf.name} could not be unpacked into {folder.parent}: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _load_hf(
    where: Path | str, device: str, dtype: torch.dtype, device_map: str | None, revision: str | None, remote_code: bool
) -> tuple[Any, PreTrainedTokenizerBase]:
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError
    from transformers import AutoModelForCausalLM, AutoTokenizer

    options = {"revision": revision, "trust_remote_code": remote_code}
    try:
        with _quiet():
            tokenizer = AutoTokenizer.from_pretrained(where, **options)
            model = AutoModelForCausalLM.from_pretrained(
                where, dtype=dtype, attn_implementation="eager", device_map=device_map or device, **options
            )
    except GatedRepoError as error:
        raise ModelError(
            f"{where} is gated: accept its licence on its hub page, then log in with `hf auth login` or set HF_TOKEN."
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelError(f"The hub knows no public model {where}. {nearest(str(where), MODELS)}") from error
    except (OSError, HfHubHTTPError, ValueError) as error:
        if "gated" in str(error).lower():
            raise ModelError(
                f"{where} is gated: accept its licence on its hub page, then log in with `hf auth login`."
            ) from error
        raise ModelError(f"{where} could not be loaded: {str(error).splitlines()[0]}") from error
    return model, tokenizer


def _bridge(
    hf_model: Any, tokenizer: PreTrainedTokenizerBase, name: str, source: str, device: str, dtype: torch.dtype
) -> TransformerBridge:
    """Boot the bridge around loaded weights, check it, and register where it comes from."""
    with _quiet():
        from transformer_lens.model_bridge import TransformerBridge

        hf_model.eval()
        folder = hf_model.config._name_or_path or name
        bridge = TransformerBridge.boot_transformers(folder, hf_model=hf_model, tokenizer=tokenizer, dtype=dtype)
    bridge.tokenizer.padding_side = "left"
    if bridge.tokenizer.pad_token is None:
        bridge.tokenizer.pad_token = bridge.tokenizer.eos_token
    _check_sites(bridge, name)
    _provenance[bridge] = Provenance(
        name=name,
        source=source,
        weights=_weights_digest(hf_model),
        processing="none (raw Hugging Face weights)",
        dtype=str(dtype).removeprefix("torch."),
        template=hashlib.sha256(str(tokenizer.chat_template).encode()).hexdigest()[:16],
        site=SITES["resid"],
        versions=tuple((package, version(package)) for package in ("torch", "transformer-lens", "transformers")),
        n_layers=bridge.cfg.n_layers,
        d_model=bridge.cfg.d_model,
        device=device,
    )
    return bridge


def _check_sites(bridge: TransformerBridge, name: str) -> None:
    """Run one token through the model: every block's site must fire once, with a `[1, 1, d_model]` tensor."""
    n_layers, d_model = bridge.cfg.n_layers, bridge.cfg.d_model
    if len(bridge.blocks) != n_layers:
        raise ModelError(
            f"{name} must have as many blocks as its configuration says ({n_layers}); it has {len(bridge.blocks)}."
        )
    seen: dict[str, Any] = {}
    hooks = [
        (SITES["resid"].format(layer=layer), lambda v, hook: seen.update({hook.name: v})) for layer in range(n_layers)
    ]
    with torch.inference_mode(), bridge.hooks(fwd_hooks=hooks):
        bridge.original_model.base_model(input_ids=torch.zeros((1, 1), dtype=torch.long, device=input_device(bridge)))
    for site, _ in hooks:
        value = seen.get(site)
        if not isinstance(value, torch.Tensor) or tuple(value.shape) != (1, 1, d_model):
            got = "nothing" if value is None else f"{type(value).__name__} {tuple(getattr(value, 'shape', ()))}"
            raise ModelError(
                f"The residual stream of {name} must pass {site} as a tensor [1, 1, {d_model}]; got {got}. "
                "This architecture is not supported by the installed transformer-lens."
            )


def untouched(model: TransformerBridge) -> bool:
    """Whether nothing changes the model and nobody listens to it: then `plain` gives the same, faster."""
    return not state(model) and not any(point.fwd_hooks for point in model.hook_dict.values())


@contextlib.contextmanager
def plain(model: TransformerBridge) -> Iterator[list[torch.nn.Module]]:
    """Put Hugging Face's own modules in the place of the bridge's while it is on; gives the blocks.

    The numbers are the same to the bit, without what the bridge computes for hooks that nobody listens to (it takes
    every norm twice). No hook of the bridge fires meanwhile, so this is for models that are `untouched`. Not for
    several threads at once.
    """
    from transformer_lens.model_bridge.generalized_components.base import GeneralizedComponent

    assert untouched(model), f"{state(model) or 'a hook'} is on and would be passed over"
    blocks = [block.original_component for block in model.blocks]
    swapped: list[tuple[torch.nn.Module, str, torch.nn.Module]] = []

    def unwrap(module: torch.nn.Module) -> None:
        for name, child in list(module._modules.items()):
            inner = child
            while isinstance(inner, GeneralizedComponent):
                inner = inner.original_component
            if inner is not child:
                swapped.append((module, name, child))
                module._modules[name] = inner
            if inner is not None:
                unwrap(inner)

    try:
        unwrap(model.original_model)
        yield blocks
    finally:
        for module, name, child in reversed(swapped):
            module._modules[name] = child


def input_device(model: TransformerBridge) -> torch.device:
    """The device that token ids must be on."""
    return model.original_model.get_input_embeddings().weight.device


def _weights_digest(hf_model: Any) -> str:
    """Digest of every parameter's name and bits; the same on every device."""
    import xxhash

    digest = xxhash.xxh3_128()
    for name, tensor in sorted(hf_model.state_dict().items()):
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        if tensor.numel() and tensor.device.type != "meta":
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hold back the libraries' own progress bars and advice while loading."""
    import logging
    import warnings

    from transformers.utils import logging as hf_logging

    levels = {name: logging.getLogger(name).level for name in ("transformers", "transformer_lens", "huggingface_hub")}
    bars = hf_logging.is_progress_bar_enabled()
    try:
        hf_logging.disable_progress_bar()
        for name in levels:
            logging.getLogger(name).setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if bars:
            hf_logging.enable_progress_bar()
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


@contextlib.contextmanager
def changed(model: TransformerBridge, change: str) -> Iterator[None]:
    """Register, while it is on, something that changes the model's computation; every store key carries it."""
    before = _changes.get(model, ())
    _changes[model] = (*before, change)
    try:
        yield
    finally:
        _changes[model] = before


def state(model: TransformerBridge) -> str:
    """What is on now, outermost first; empty for the model itself."""
    return " + ".join(_changes.get(model, ()))
