"""timm's networks, built without weights, given random ones that are alive, and exported by our own export."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import nn

from architectures.case import Architecture, Case, pictures
from architectures.timm_without_torchvision import load_timm
from modeltailor.workloads.export import export_onnx

__all__ = ["TIMM", "TimmNetwork", "enliven"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TimmNetwork:
    """How one network is built and written.

    Attributes:
        name: timm's name.
        size: side of the pictures.
        opset: version of the standard operators; the old exporter writes what is below 18.
        dynamic_batch: leave the batch size free.
        external: keep the weights in a second file.
        options: passed on to timm: smaller depths and widths, so that the suite ends today.
    """

    name: str
    size: int = 64
    opset: int = 21
    dynamic_batch: bool = True
    external: bool = False
    options: Mapping[str, object] = field(default_factory=dict)


_NETWORKS = (
    TimmNetwork(name="resnet10t", opset=13),
    TimmNetwork(name="resnetv2_18", options={"layers": (1, 1, 1, 1), "channels": (32, 64, 128, 256)}),
    TimmNetwork(name="seresnet18", options={"layers": (1, 1, 1, 1), "channels": (32, 64, 128, 256)}, opset=18),
    TimmNetwork(name="resnext26ts"),
    TimmNetwork(name="mobilenetv2_035", external=True),
    TimmNetwork(name="mobilenetv3_small_050", opset=15),
    TimmNetwork(name="mobilenetv4_conv_small_035", opset=23),
    TimmNetwork(name="efficientnet_b0", dynamic_batch=False),
    TimmNetwork(name="tf_efficientnet_lite0"),
    TimmNetwork(name="mnasnet_small", opset=17),
    TimmNetwork(name="ghostnet_050"),
    TimmNetwork(name="ghostnetv2_100"),
    TimmNetwork(name="convnext_atto", options={"depths": (1, 1, 2, 1)}, external=True),
    TimmNetwork(name="convnextv2_atto", options={"depths": (1, 1, 2, 1)}),
    TimmNetwork(name="vit_tiny_patch16_224", options={"img_size": 64, "depth": 3}),
    TimmNetwork(name="deit_tiny_distilled_patch16_224", options={"img_size": 64, "depth": 3}, dynamic_batch=False),
    TimmNetwork(
        name="swin_tiny_patch4_window7_224",
        size=56,
        options={"img_size": 56, "embed_dim": 32, "depths": (1, 2, 1), "num_heads": (2, 4, 8), "window_size": 7},
    ),
    TimmNetwork(
        name="swinv2_tiny_window8_256",
        options={"img_size": 64, "embed_dim": 32, "depths": (1, 2), "num_heads": (2, 4), "window_size": 8},
    ),
    TimmNetwork(name="mixer_s32_224"),
    TimmNetwork(name="resmlp_12_224"),
    TimmNetwork(name="gmlp_ti16_224"),
    TimmNetwork(name="regnetx_002"),
    TimmNetwork(name="regnety_002", opset=20),
    TimmNetwork(name="edgenext_xx_small"),
    TimmNetwork(name="densenet121", options={"block_config": (2, 3, 3, 2)}),
    TimmNetwork(name="repvgg_a0", options={"num_classes": 10}),
    TimmNetwork(name="hardcorenas_a"),
    TimmNetwork(name="lcnet_035", opset=13),
    TimmNetwork(name="fbnetc_100"),
    TimmNetwork(name="repghostnet_050"),
    TimmNetwork(name="tinynet_e"),
    TimmNetwork(name="levit_128s", size=224),
    TimmNetwork(name="poolformer_s12"),
    TimmNetwork(name="pvt_v2_b0"),
    TimmNetwork(name="pit_ti_224", options={"img_size": 64, "depth": (1, 2, 1)}),
    TimmNetwork(name="xcit_nano_12_p16_224", options={"img_size": 64, "depth": 2}),
    TimmNetwork(name="mobilevit_xxs"),
    TimmNetwork(name="mobilevitv2_050"),
    TimmNetwork(name="efficientvit_b0"),
    TimmNetwork(name="efficientformer_l1", size=224, dynamic_batch=False),
    TimmNetwork(name="fastvit_t8", options={"layers": (1, 1, 2, 1)}),
    TimmNetwork(name="hrnet_w18_small"),
    TimmNetwork(name="res2net50_14w_8s", options={"layers": (1, 1, 1, 1)}),
    TimmNetwork(name="rexnet_100"),
    TimmNetwork(name="starnet_s1"),
    TimmNetwork(name="inception_next_atto", options={"depths": (1, 1, 2, 1)}),
)


def _mixer(timm: Any, **options: Any) -> nn.Module:
    made: nn.Module = timm.models.mlp_mixer.MlpMixer(
        img_size=64, patch_size=16, embed_dim=96, num_blocks=3, num_classes=10, **options
    )
    return made


def _resmlp(timm: Any) -> nn.Module:
    blocks = timm.models.mlp_mixer
    return _mixer(timm, block_layer=blocks.ResBlock, norm_layer=blocks.Affine, mlp_ratio=4)


def _gmlp(timm: Any) -> nn.Module:
    blocks = timm.models.mlp_mixer
    return _mixer(timm, block_layer=blocks.SpatialGatingBlock, mlp_layer=timm.layers.GatedMlp, mlp_ratio=6)


def _poolformer(timm: Any) -> nn.Module:
    former = timm.models.metaformer
    made: nn.Module = former.MetaFormer(
        depths=(1, 1, 2, 1), dims=(32, 64, 96, 128), downsample_norm=None, mlp_act=nn.GELU, mlp_bias=True,
        norm_layers=former.GroupNorm1, layer_scale_init_values=1e-5, res_scale_init_values=None,
        use_mlp_head=False, num_classes=10,
    )  # fmt: skip
    return made


# networks whose size timm's own builders do not let one choose
_SMALLER: dict[str, Callable[[Any], nn.Module]] = {
    "mixer_s32_224": _mixer,
    "resmlp_12_224": _resmlp,
    "gmlp_ti16_224": _gmlp,
    "poolformer_s12": _poolformer,
}


def enliven(module: nn.Module, example: torch.Tensor, seed: int = 0) -> None:
    """Give life to what starts as a constant, in place: a network fresh from timm often computes zero.

    Last layers and last normalizations of a block start at zero, layer scales at a millionth. All such parameters
    are drawn at random, and the running statistics of normalizations are those of ``example``.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in module.named_parameters():
            if value.numel() > 1 and bool((value == value.flatten()[0]).all()):
                if value.ndim > 1 and value.squeeze().ndim > 1:
                    value.copy_(torch.randn(value.shape, generator=generator) / value[0].numel() ** 0.5)
                elif name.endswith("bias"):
                    value.copy_(0.1 * torch.randn(value.shape, generator=generator))
                else:
                    value.copy_(0.6 + 0.8 * torch.rand(value.shape, generator=generator))
        norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        momenta = [m.momentum for m in norms]
        for norm in norms:
            norm.momentum = None  # the running mean over what follows
            norm.reset_running_stats()
        module.train()
        torch.manual_seed(seed)
        noisy = example + torch.randn(example.shape, generator=generator)  # export is checked on such inputs, too
        module(torch.cat([example, noisy]))
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            norm.running_var.clamp_(min=0.1 * float(norm.running_var.mean()))  # a dead channel would amplify noise
    module.eval()


def _make(network: TimmNetwork, folder: Path) -> Case:
    timm = load_timm()
    torch.manual_seed(0)
    if network.name in _SMALLER:
        module = _SMALLER[network.name](timm)
    else:
        options = {"num_classes": 10, **network.options}
        module = timm.create_model(network.name, pretrained=False, exportable=True, **options)
    x = pictures(12, network.size)
    enliven(module, torch.from_numpy(x))
    path = folder / f"{network.name}.onnx"
    batch = 2 if network.dynamic_batch else 4
    if network.opset < 18:
        _by_the_old_exporter(module, torch.from_numpy(x[:batch]), path, network)
        return Case(path, {"x": x}, "written by the old exporter")
    made = export_onnx(
        module, (torch.from_numpy(x[:batch]),), path, opset=network.opset, dynamic_batch=network.dynamic_batch,
        input_names=["x"],
    )  # fmt: skip
    if network.external:
        model = onnx.load(path)
        onnx.save(model, path, save_as_external_data=True, location=f"{path.name}.data", size_threshold=256)
    return Case(path, {"x": x}, made.note)


def _by_the_old_exporter(module: nn.Module, example: torch.Tensor, path: Path, network: TimmNetwork) -> None:
    """Graphs of years ago look different: other names, shapes computed in the graph, low opsets."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module, (example,), path, dynamo=False, opset_version=network.opset, input_names=["x"],
            output_names=["output"], dynamic_axes={"x": {0: "n"}, "output": {0: "n"}} if network.dynamic_batch else None,
        )  # fmt: skip


TIMM = tuple(
    Architecture(
        name=f"timm/{n.name}",
        make=partial(_make, n),
        needs=("timm",),
        is_quick=n.name in ("lcnet_035",),
    )
    for n in _NETWORKS
)
