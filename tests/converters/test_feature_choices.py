"""Features of other blocks and by other ways of pooling: found in the module tree, the same as PyTorch's."""

import json

import jax
import numpy as np
import pytest
import torch
from torch import nn

from converters import __main__ as command_line
from converters import _compat, convert, from_torch, outputs, verify  # noqa: F401  (before timm and torchvision)
from converters.blocks import Structure
from converters.randomise import randomise
from vtabjax import model
from vtabjax.protocols.finetune import head
from vtabjax.runtime.xla_cpu import quick_compilation
from vtabjax.specs import SpecError, pooling

# isort: split
import timm
import torchvision
from timm.models.convnext import ConvNeXt
from timm.models.resnet import BasicBlock, ResNet
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer

SIZE = (3, 32, 32)


def vit(**options):
    own = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 2, "num_classes": 5}
    return VisionTransformer(**{**own, **options})


class Layer(nn.Module):
    """A block that returns a tuple, as in other libraries, and writes into what it is given."""

    def __init__(self, width):
        super().__init__()
        self.mix, self.inner = nn.Linear(width, width), nn.LayerNorm(width)

    def forward(self, x):
        x = x + torch.relu_(self.mix(self.inner(x)) + x.mean(1, keepdim=True))
        return x, None


class HandWritten(nn.Module):
    """Tokens, a class token by the name that is given, no base class of any library."""

    def __init__(self, token="cls_token", pool="token", prefix=1):
        super().__init__()
        self.patches = nn.Conv2d(3, 12, 8, 8)
        self.prefix = prefix
        if prefix:
            self.token_name = token
            setattr(self, token, nn.Parameter(torch.randn(1, prefix, 12)))
        self.layers = nn.ModuleList(Layer(12) for _ in range(3))
        self.last, self.pool = nn.LayerNorm(12), pool

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        if self.prefix:
            x = torch.cat([getattr(self, self.token_name).expand(x.shape[0], -1, -1), x], 1)
        for layer in self.layers:
            (x, _) = layer(x)
        x = self.last(x)
        if self.pool == "both":
            return torch.cat([x[:, 0], x[:, self.prefix :].mean(1)], 1)
        return x[:, 0] if self.pool == "token" else x[:, self.prefix :].mean(1)


ALL = "token avg both"
# name: (module, blocks, prefix tokens, pools, the library's own, the pool after a block)
MODULES = {
    "class token": (lambda: vit(), 3, 1, ALL, "token", "token"),
    "registers": (lambda: vit(reg_tokens=4), 3, 5, ALL, "token", "token"),
    "registers, mean": (lambda: vit(reg_tokens=4, global_pool="avg", fc_norm=False), 3, 5, ALL, "avg", "avg"),
    "norm after pooling": (lambda: vit(global_pool="avg"), 3, 1, ALL, "avg", "avg"),
    "attention pooling": (lambda: vit(class_token=False, global_pool="map"), 3, 0, "avg", None, "avg"),
    "no class token": (lambda: vit(class_token=False, global_pool="avg", fc_norm=False), 3, 0, "avg", "avg", "avg"),
    "swin": (lambda: SwinTransformer(32, 2, embed_dim=8, depths=(2, 2), num_heads=(2, 2), window_size=4, num_classes=5),
             4, 0, "avg", "avg", "avg"),
    "convnext": (lambda: ConvNeXt(depths=(1, 2, 1, 1), dims=(8, 8, 16, 24), num_classes=5), 5, 0, "avg", "avg", "avg"),
    "resnet": (lambda: ResNet(BasicBlock, (2, 1, 1, 1), channels=(8, 8, 16, 24), num_classes=5),
               5, 0, "avg", "avg", "avg"),
    "efficientnet": (lambda: timm.create_model("test_efficientnet", num_classes=5), 5, 0, "", None, "avg"),
    "torchvision's vit": (lambda: torchvision.models.VisionTransformer(32, 8, 2, 2, 24, 48), 2, 1, ALL,
                          "token", "token"),
    "hand-written": (HandWritten, 3, 1, ALL, "token", "token"),
    "both of its own": (lambda: HandWritten(pool="both"), 3, 1, ALL, "both", "avg"),
    "a token of another kind": (lambda: HandWritten("summary", "avg"), 3, 1, "avg", "avg", "avg"),
}  # fmt: skip


@pytest.fixture(scope="module")
def made():
    """Name -> (module in float64, its structure, graph, variables), each made once."""
    found = {}

    def get(name):
        if name not in found:
            torch.manual_seed(0)
            module = randomise(MODULES[name][0]().eval()).double()
            structure = outputs.structure(module, SIZE)
            found[name] = module, structure, *from_torch(module, SIZE, structure=structure)
        return found[name]

    return get


@pytest.mark.parametrize("name", MODULES)
def test_what_there_is_to_choose_from(made, name):
    _, blocks, prefix, pools, native, layer_pool = MODULES[name]
    _, structure, graph, _ = made(name)
    about = structure.describe()
    assert (about["blocks"], about["prefix_tokens"]) == (blocks, prefix)
    assert (about["pools"], about["native"], about["layer_pool"]) == (pools.split(), native, layer_pool)
    assert len(about["widths"]) == blocks
    each = pools.split() or ["avg"]
    assert set(graph.choices) == {
        f"features:layer={k}+pool={p}" for k in range(1, blocks + 1) for p in each
    } | {f"features:pool={p}" for p in pools.split()}


@pytest.mark.parametrize("name", MODULES)
def test_all_choices_are_pytorchs_in_float64(made, name):
    module, structure, graph, variables = made(name)
    names = {k: k for k in (*graph.outputs, *graph.choices)}
    errors = verify.compare(module, graph, variables, outputs=names, structure=structure)
    assert set(errors) == set(names) and max(errors.values()) < 1e-12


@pytest.mark.parametrize("name", MODULES)
def test_the_models_own_graph_stays_as_it_is(made, name):
    module, _, graph, _ = made(name)
    without = from_torch(module, SIZE, structure=Structure())[0]
    chosen = graph.select({k: k for k in graph.outputs})
    assert graph.nodes[: len(without.nodes)] == without.nodes and graph.live == without.live
    assert (chosen.nodes, chosen.outputs) == (without.nodes, without.outputs) and not without.choices


@pytest.fixture(scope="module")
def ours(made):
    """(name, choice) -> the features of `images()` by our graph, all choices of a module in one program."""
    found = {}

    def get(name, choice):
        if name not in found:
            _, _, graph, variables = made(name)
            every = graph.select({k: k for k in (*graph.outputs, *graph.choices)})
            inputs = images().permute(0, 2, 3, 1).numpy()
            with jax.enable_x64(True):
                run = jax.jit(lambda v, x: model.apply(every, v, x)[0], compiler_options=quick_compilation())
                found[name] = {k: np.asarray(value) for k, value in run(variables, inputs).items()}
        return found[name][choice]

    return get


def images():
    return torch.randn(2, *SIZE, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


@pytest.mark.parametrize("name", ["class token", "registers", "registers, mean", "attention pooling"])
def test_transformers_are_as_timms_get_intermediate_layers(made, ours, name):
    module, structure, _, _ = made(name)
    x = images()
    with torch.no_grad():
        prefixed = module.num_prefix_tokens > 0
        layers = module.get_intermediate_layers(x, n=[0, 1, 2], norm=True, return_prefix_tokens=prefixed)
        native = module.forward_head(module.forward_features(x), pre_logits=True)
    for number, layer in enumerate(layers, 1):
        patches, prefix = layer if prefixed else (layer, None)
        wanted = {"avg": patches.mean(1)}
        if prefixed:
            wanted |= {"token": prefix[:, 0], "both": torch.cat([prefix[:, 0], patches.mean(1)], 1)}
        assert set(wanted) == set(structure.pools)
        for pool, value in wanted.items():
            got = ours(name, f"features:layer={number}+pool={pool}")
            np.testing.assert_allclose(got, value, rtol=1e-10, atol=1e-12)
    for pool, value in wanted.items():  # after the last block
        np.testing.assert_allclose(ours(name, f"features:pool={pool}"), value, rtol=1e-10, atol=1e-12)
    if structure.native:
        np.testing.assert_allclose(ours(name, f"features:pool={structure.native}"), native, rtol=1e-10)


def test_a_norm_after_pooling_belongs_to_the_features(made, ours):
    name, x = "norm after pooling", images()
    module, structure, _, _ = made(name)
    assert structure.pooled_norm == "fc_norm" and not structure.norm
    with torch.no_grad():
        tokens = module.forward_features(x)
        wanted = {"token": module.fc_norm(tokens[:, 0]), "avg": module.fc_norm(tokens[:, 1:].mean(1))}
    for pool, value in wanted.items():
        np.testing.assert_allclose(ours(name, f"features:pool={pool}"), value, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    "name, ends", [("swin", (2, 4)), ("convnext", (1, 3, 4, 5)), ("resnet", (2, 3, 4, 5))]
)
def test_stages_are_as_timms_forward_intermediates(made, ours, name, ends):
    """A stage of timm ends with one of our blocks: the means of the maps are the same, before the final norm."""
    module, _, _, _ = made(name)
    x = images()
    with torch.no_grad():
        stages = module.forward_intermediates(x, norm=False, intermediates_only=True)[-len(ends) :]
    for number, stage in list(zip(ends, stages, strict=True))[: -1 if name != "resnet" else None]:
        got = ours(name, f"features:layer={number}+pool=avg")
        np.testing.assert_allclose(got, stage.mean((2, 3)), rtol=1e-10, atol=1e-12)
    with torch.no_grad():
        native = module.forward_head(module.forward_features(x), pre_logits=True)
    for choice in ("features:pool=avg", f"features:layer={ends[-1]}+pool=avg", "features"):
        np.testing.assert_allclose(ours(name, choice), native, rtol=1e-10, atol=1e-12)


def test_what_a_block_writes_into_its_input_comes_later(made, ours):
    module, _, _, _ = made("resnet")
    x, seen = images(), []
    hook = module.layer1[0].register_forward_hook(lambda _, __, out: seen.append(out.mean((2, 3))))
    with torch.no_grad():
        module(x)
    hook.remove()
    got = ours("resnet", "features:layer=1+pool=avg")
    np.testing.assert_allclose(got, seen[0], rtol=1e-10, atol=1e-12)


class Branches(HandWritten):
    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        return self.last(sum(layer(x)[0] for layer in self.layers)).mean(1)


class Twice(HandWritten):
    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        for _ in range(2):
            for layer in self.layers:
                x, _ = layer(x)
        return self.last(x).mean(1)


@pytest.mark.parametrize(
    "build",
    [lambda: Branches(prefix=0), lambda: Twice(prefix=0), lambda: nn.Sequential(nn.Flatten(), nn.Linear(3072, 4)),
     lambda: timm.create_model("cait_xxs24_224", img_size=32, depth=2),
     lambda: timm.create_model("hrnet_w18_small")],
    ids=["parallel", "shared", "no blocks", "class attention", "resolutions"],
)  # fmt: skip
def test_what_has_no_single_chain_of_blocks_has_no_choices(build):
    torch.manual_seed(0)
    module = randomise(build().eval())
    assert outputs.structure(module, SIZE) == Structure()
    with pytest.raises(SpecError, match="only its own features are known"):
        pooling.output("timm/x#layer=1", {"feature_choices": Structure().describe()})


def test_the_module_is_left_as_it_was():
    module = vit().train()
    module.blocks[1].eval()
    outputs.structure(module, SIZE)
    assert module.training and not module.blocks[1].training and module.blocks[0].training
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())


def test_one_artefact_for_all_choices(tmp_path):
    path = convert("timm/test_vit@random#layer=2+pool=avg", tmp_path, input_size=32)
    assert path.name == "timm--test_vit@random-32"
    info = json.loads((path / "model.json").read_text())
    assert info["spec"] == "timm/test_vit@random" and info["num_features"] == 64
    assert info["feature_choices"] == {
        "native": "token", "positions": "tokens", "pools": ["token", "avg", "both"], "blocks": 6, "layer_pool": "token",
        "prefix_tokens": 1, "norm": "norm", "widths": [64] * 6}  # fmt: skip
    errors = info["parity"]["float32"]
    assert {"features", "logits", "features:pool=both", "features:layer=1+pool=token"} <= set(errors)
    assert max(errors.values()) < 1e-5 and verify.verify_artefact(path)
    with pytest.raises(SpecError, match=r"it has no block 7; it has tokens: .* #layer=1 to #layer=6"):
        convert("timm/test_vit@random:1#layer=7", tmp_path, input_size=32)
    with pytest.raises(SpecError, match="it has no pool=token; it has feature maps"):
        convert("timm/test_resnet@random#pool=token", tmp_path, input_size=32)
    assert [p.name for p in tmp_path.glob("timm--*")] == [path.name]


def test_the_command_finds_the_artefact_of_another_choice(tmp_path, capsys):
    options = [f"--out={tmp_path}", "--input_size=32", "--no_verify", "--json_lines"]
    specs = [f"timm/test_resnet@random{choice}" for choice in ("#layer=2", "", "#layer=-1", "#layer=5")]
    assert command_line.main(["convert", *specs, *options]) == 1
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["status"] for line in lines] == ["converted", "present", "present", "failed"]
    assert len({line["path"] for line in lines[:3]}) == 1 and "it has no block 5" in lines[3]["message"]


def test_a_model_that_was_fine_tuned_on_a_block_is_verified(tmp_path):
    parts = model.load_parts(convert("timm/test_vit@random", tmp_path, input_size=32))
    chosen = model.with_features(parts, "features:layer=2+pool=both")
    rng = np.random.default_rng(0)
    tuned = head.with_head(chosen, {}, rng.normal(size=(4, 128)), np.zeros(4), {"finetuned": {"task": "x"}})
    path = model.save(tmp_path / "tuned", *tuned)
    assert max(e for k, e in verify.verify_artefact(path).items() if k != "spec") < 1e-4
    other = tuned._replace(info={**tuned.info, "features_of": "features:layer=3+pool=both"})
    with pytest.raises(verify.ParityError, match="differs"):
        verify.verify_artefact(model.save(tmp_path / "other", *other))
