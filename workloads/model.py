"""Loading models. A model is data: no pickle is executed, and code runs only if the user named it."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from modeltailor.errors import ConfigError, EnvironmentFault, ModelError
from modeltailor.workloads.code import load_callable, looks_like_code
from modeltailor.workloads.spec import ModelSpec

if TYPE_CHECKING:
    import torch

__all__ = ["ModelKind", "check_onnx_file", "load_module", "model_kind"]

ModelKind = Literal["torch", "onnx", "hf"]

_PICKLE_STARTS = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


def model_kind(spec: ModelSpec, root: Path) -> ModelKind:
    """Say what kind of model the source names, without loading it.

    Raises:
        ConfigError: the file or folder does not exist, or nothing is known to be named like this.
    """
    path = root / spec.source
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ConfigError(
                "CFG-01", "model.source", f"folder {spec.source} has no config.json", "name a Hugging Face folder"
            )
        return "hf"
    if path.suffix == ".onnx" or path.is_file():
        if not path.is_file():
            raise ConfigError("CFG-01", "model.source", f"no file {spec.source} in {root}", "check the path")
        if path.suffix != ".onnx":
            check_onnx_file(path)  # tells what it is instead
            raise ModelError(
                "MODEL-04", spec.source, f"'{path.suffix}' is not a model format that can be read", "give .onnx"
            )
        return "onnx"
    if looks_like_code(spec.source):
        return "torch"
    raise ConfigError(
        "CFG-01", "model.source", f"no file {spec.source} in {root}", "give model.py:function or a file.onnx"
    )


def check_onnx_file(path: Path) -> None:
    """Refuse what is not an ONNX file by its first bytes, before any library reads it.

    Raises:
        ModelError: empty, a Git LFS pointer, a pickle or an archive.
    """
    size = path.stat().st_size
    name = path.name
    if size == 0:
        raise ModelError("MODEL-01", name, "the file is empty (0 bytes)", "export or download it again")
    with path.open("rb") as file:
        head = file.read(64)
    if head.startswith(b"version https://git-lfs"):
        raise ModelError("MODEL-03", name, "this is a Git LFS pointer, not the model", "run git lfs pull")
    if head.startswith(_PICKLE_STARTS):
        raise ModelError(
            "MODEL-21", name, "holds a pickle, which is a program and is not executed",
            "save weights as .safetensors and name the function that builds the model",
        )  # fmt: skip
    if zipfile.is_zipfile(path):
        what = "a PyTorch archive" if _is_torch_archive(path) else "a zip archive"
        raise ModelError(
            "MODEL-04", name, f"this is {what}, not an ONNX file", "export it to ONNX, or give its code and weights"
        )


def _is_torch_archive(path: Path) -> bool:
    with zipfile.ZipFile(path) as archive:
        return any(n.endswith("data.pkl") for n in archive.namelist())


def load_module(spec: ModelSpec, root: Path) -> torch.nn.Module:
    """Build the PyTorch module and load its weights, in ``eval`` mode.

    Raises:
        ConfigError: a file is missing.
        ModelError: the code raised, or the weights do not match.
        EnvironmentFault: a package that the model needs is not installed.
    """
    import torch

    if model_kind(spec, root) == "hf":
        return _hugging_face(root / spec.source)
    build = load_callable(spec.source, root, "model.source")
    try:
        made = build()
    except Exception as error:
        raise ModelError(
            "CODE-01", spec.source, f"raised {type(error).__name__}: {error}", "mend that function"
        ) from error
    if not isinstance(made, torch.nn.Module):
        raise ModelError(
            "MODEL-04", spec.source, f"must return a torch.nn.Module; got {type(made).__name__}", "return the module"
        )
    if spec.weights:
        _load_weights(made, root / spec.weights)
    bad = not_finite(made)
    if bad:
        raise ModelError(
            "MODEL-16", bad[0], f"NaN or infinity in the weights of {len(bad)} tensors", "check the training"
        )
    return made.eval()


def not_finite(module: torch.nn.Module) -> list[str]:
    """Return the names of parameters that hold NaN or infinity, and of buffers that hold NaN.

    Masks of attention are full of infinity: minus infinity is fine in a parameter that is frozen, both are in a buffer.
    """
    import torch

    parameters = dict(module.named_parameters())

    def is_broken(name: str, value: torch.Tensor) -> torch.Tensor:
        own = parameters.get(name)
        if own is None:
            return torch.isnan(value)
        return ~torch.isfinite(value) & (own.requires_grad | ~torch.isneginf(value))

    return [n for n, p in module.state_dict().items() if p.is_floating_point() and bool(is_broken(n, p).any())]


def _load_weights(module: torch.nn.Module, path: Path) -> None:
    import torch

    where = path.name
    if not path.is_file():
        raise ConfigError("CFG-01", "model.weights", f"no file {where} in {path.parent}", "check the path")
    if path.stat().st_size == 0:
        raise ModelError("MODEL-01", where, "the file is empty (0 bytes)", "download it again")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            state: Mapping[str, Any] = load_file(path)
        except (SafetensorError, OSError, ValueError) as error:
            raise ModelError(
                "MODEL-02", where, f"is not a readable safetensors file ({error})", "download it again"
            ) from error
    else:
        try:
            loaded = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises a dozen types here; each means: not plain tensors
            raise ModelError(
                "MODEL-21", where, "holds more than plain tensors, or is damaged; a pickle is a program and is not executed",
                "save model.state_dict() as .safetensors",
            ) from error  # fmt: skip
        state = loaded.get("state_dict", loaded) if isinstance(loaded, Mapping) else {}
        if not state:
            raise ModelError("MODEL-22", where, "holds no state_dict", "save model.state_dict()")
    _match(module, state, where)
    module.load_state_dict(dict(state))


def _match(module: torch.nn.Module, state: Mapping[str, Any], where: str) -> None:
    own = module.state_dict()
    wrong = [f"'{k}' is missing" for k in own if k not in state and not k.endswith("num_batches_tracked")]
    wrong += [f"'{k}' is not in the model" for k in state if k not in own]
    wrong += [
        f"'{k}' has shape {tuple(state[k].shape)}, the model {tuple(own[k].shape)}"
        for k in own
        if k in state and own[k].shape != state[k].shape
    ]
    if wrong:
        more = f", and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise ModelError(
            "MODEL-22", where, f"does not fit the model: {'; '.join(wrong[:5])}{more}", "give the weights of this model"
        )
    missing = {k: v for k, v in own.items() if k not in state}
    if missing and isinstance(state, dict):
        state.update(missing)


def _hugging_face(folder: Path) -> torch.nn.Module:
    import torch

    try:
        import transformers
    except ImportError as error:
        raise EnvironmentFault(
            "ENV-11",
            "model.source",
            "a Hugging Face folder needs the package transformers",
            "pip install 'modeltailor[hf]'",
        ) from error
    config = json.loads((folder / "config.json").read_text())
    names = [n for n in config.get("architectures", []) if hasattr(transformers, n)]
    loader = getattr(transformers, names[0]) if names else transformers.AutoModel
    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call, unused-ignore]
    try:
        model = loader.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, attn_implementation="eager", dtype=torch.float32
        )
    except Exception as error:
        raise ModelError(
            "MODEL-02",
            folder.name,
            f"cannot be loaded by {loader.__name__}: {error}",
            "check config.json and model.safetensors",
        ) from error
    assert isinstance(model, torch.nn.Module)
    return model.eval()
