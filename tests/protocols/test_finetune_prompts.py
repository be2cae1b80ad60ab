"""Prompt tokens: what PyTorch computes with the same tokens, and which models have no place for them."""

import functools

import jax
import numpy as np
import pytest
import torch
from finetune_models import conv_parts

import converters
from converters import _compat  # noqa: F401  (before timm, which imports torchvision)
from vtabjax import model
from vtabjax.protocols import finetune
from vtabjax.protocols.finetune import prompts
from vtabjax.runtime import devices

# isort: split
import timm
import torchvision
import transformers

SIZE, TOKENS = 32, 3
QUICK = {"xla_backend_optimization_level": 0}  # to compile, not to run
INFO = {"mean": [0.5, 0.45, 0.4], "std": [0.25, 0.2, 0.3]}
SMALL = {"img_size": SIZE, "depth": 2, "embed_dim": 24, "num_heads": 2}


def built(name, **options):
    torch.manual_seed(0)
    if name == "torchvision":  # its attention joins tokens and images
        module = torchvision.models.VisionTransformer(SIZE, 8, 2, 2, 24, 48)
        module.heads = torch.nn.Identity()
    else:
        module = timm.create_model(name, num_classes=0, **options)
    module = module.double().eval()
    graph, variables = converters.from_torch(module, (3, SIZE, SIZE))
    return module, model.SavedModel(graph, variables, INFO)


def with_tokens(module, tokens, pixels):
    """The library's forward pass, with tokens behind the class token and any registers, taken away at the end."""
    timms, count = hasattr(module, "num_prefix_tokens"), tokens[0].shape[1]
    if timms:
        x = module.norm_pre(module.patch_drop(module._pos_embed(module.patch_embed(pixels))))
        first, blocks = module.num_prefix_tokens, module.blocks
    else:
        x = torch.cat([module.class_token.expand(len(pixels), -1, -1), module._process_input(pixels)], 1)
        x, first, blocks = x + module.encoder.pos_embedding, 1, module.encoder.layers
    for i, block in enumerate(blocks):
        after = first if i == 0 else first + count
        own = tokens[i].expand(len(x), -1, -1) if i < len(tokens) else x[:, first:after]
        x = block(torch.cat([x[:, :first], own, x[:, after:]], 1))
    x = torch.cat([x[:, :first], x[:, first + count :]], 1)
    return module.forward_head(module.norm(x)) if timms else module.encoder.ln(x)[:, 0]


@pytest.mark.parametrize(
    ("name", "options", "scope"),
    [
        ("vit_tiny_patch16_224", SMALL, "prompt"),
        ("vit_tiny_patch16_224", SMALL, "prompt_deep"),
        # No class token, four registers, scales of layers, mean over the patches.
        ("vit_base_patch16_reg4_gap_256", SMALL, "prompt_deep"),
        ("torchvision", {}, "prompt_deep"),
        # As many tokens as numbers per head, so that sizes alone do not tell which is which.
        ("vit_tiny_patch16_224", {**SMALL, "num_heads": 5, "embed_dim": 25}, "prompt"),
    ],
)
def test_prompts_follow_pytorch(name, options, scope):
    module, parts = built(name, **options)
    settings = finetune.Settings(scope=scope, prompt_tokens=TOKENS, dtype="float64")
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, SIZE, SIZE, 3), dtype=np.uint8)
    mean, std = (torch.tensor(INFO[k], dtype=torch.float64).reshape(3, 1, 1) for k in ("mean", "std"))
    pixels = (torch.from_numpy(images).double().permute(0, 3, 1, 2) / 255 - mean) / std
    with jax.enable_x64(True):
        below = finetune.trainable(parts, settings)
        weights = {k: rng.normal(size=v.shape) for k, v in below.parameters.items()}
        direction = rng.normal(size=(2, below.width))

        @functools.partial(jax.jit, compiler_options=QUICK)
        def step(weights, frozen):
            def loss(weights):
                features, _ = below.forward(weights, below.buffers, images, True, frozen)
                return (features * direction).sum(), features

            return jax.value_and_grad(loss, has_aux=True)(weights)

        (_, features), gradient = step(weights, below.frozen)
        ordinary = model.Model(*finetune.finished(parts, settings, weights))
        features, again = np.asarray(features), np.asarray(ordinary(images.astype(np.float64) / 255))

    assert list(weights) == [f"prompt_tokens.{i}" for i in range(2 if scope == "prompt_deep" else 1)]
    tokens = [torch.tensor(value, requires_grad=True) for value in weights.values()]
    wanted = with_tokens(module, tokens, pixels)
    (wanted * torch.tensor(direction)).sum().backward()
    np.testing.assert_allclose(features, wanted.detach().numpy(), rtol=1e-9, atol=1e-10)
    for value, token in zip(gradient.values(), tokens, strict=True):
        np.testing.assert_allclose(value, token.grad.numpy(), rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(again, features, rtol=1e-9)
    plain = module(pixels).detach().numpy()
    assert np.abs(features - plain).max() > 1e-3 * np.abs(plain).max()


@pytest.mark.parametrize("scope", ["prompt", "prompt_deep"])
def test_one_compilation_for_all_tasks_grid_points_stages_and_seeds(scope):
    _, parts = built("vit_tiny_patch16_224", **SMALL)
    own = finetune.Settings(
        scope=scope, prompt_tokens=TOKENS, learning_rates=(0.1, 0.01), weight_decay=(0.0, 0.1), steps=(2,),
        batch_size=4, seeds=(0, 1), optimizer="adamw",
    )  # fmt: skip
    mesh = devices.data_mesh(jax.devices()[:1])
    made = finetune.Trainer(
        finetune.trainable(parts, own), own, classes=5, capacity=12, mesh=mesh, eval_batch=4
    )
    rng = np.random.default_rng(0)
    for classes in (2, 5):
        train, val, test = (
            (rng.integers(0, 256, (n, SIZE, SIZE, 3), np.uint8), (np.arange(n) % classes).astype(np.int32))
            for n in (8, 4, 4)
        )
        found = finetune.evaluate(made, train, val, test, classes=classes)
        assert len(found.grid) == 4 and len(found.finals) == 2
        tokens = TOKENS * 24 * (2 if scope == "prompt_deep" else 1)
        assert found.trainable_parameters == tokens + classes * (24 + 1)
    assert made.traces == 1


def test_where_tokens_begin():
    _, parts = built("vit_tiny_patch16_224", **SMALL)
    _, initial, beside = prompts.inserted(parts.graph.select({"features": "features"}), 100, deep=True)
    bound = (6 / (3 * 16 * 16 + 24)) ** 0.5
    for value in initial.values():
        assert value.shape == (1, 100, 24)
        assert (
            0.98 * bound < np.abs(value).max() <= bound and abs(value.std() - bound / 3**0.5) < 0.03 * bound
        )
    assert np.abs(initial["prompt_tokens.0"] - initial["prompt_tokens.1"]).max() > bound
    assert beside == {f"prompt_tokens.{i}": f"blocks.{i}.norm1.weight" for i in range(2)}


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("beit_base_patch16_224", SMALL, "knows the number of tokens"),  # a table of relative positions
        ("eva02_tiny_patch14_224", {**SMALL, "img_size": 28}, "tokens"),  # rotations
        ("test_resnet", {}, "its blocks|chain of blocks"),
        (
            "swin_tiny_patch4_window7_224",
            {"img_size": SIZE, "depths": (2, 1), "embed_dim": 12, "num_heads": (1, 2)},
            "its blocks|chain of blocks",
        ),
    ],
)
def test_models_that_know_places_are_refused(name, options, reason):
    module = timm.create_model(name, num_classes=0, **options).eval()
    graph, _ = converters.from_torch(module, (3, *[options.get("img_size", SIZE)] * 2))
    with pytest.raises(
        finetune.ScopeError, match=f"scope='prompt': .* prompt tokens: .*({reason}).*; choose lora"
    ):
        prompts.inserted(graph.select({"features": "features"}), TOKENS, deep=False)


def test_a_mask_that_hides_nothing_is_left_out():
    """transformers gives attention a mask as large as the tokens, in which all is true."""
    options = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    own = transformers.ViTConfig(image_size=SIZE, patch_size=8, **options)
    module = transformers.ViTModel(own, add_pooling_layer=False).eval()

    class Token(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = module

        def forward(self, x):
            return self.model(pixel_values=x).last_hidden_state[:, 0]

    graph, variables = converters.from_torch(Token().eval(), (3, SIZE, SIZE))
    adapted, _, _ = prompts.inserted(graph.select({"features": "features"}), TOKENS, deep=False)
    masks = [node.args[3:] for node in adapted.nodes if "scaled_dot_product" in node.op]
    assert masks == [(None,)] * 2
    x = np.random.default_rng(0).normal(size=(2, SIZE, SIZE, 3)).astype(np.float32)
    tokens = {"prompt_tokens.0": np.random.default_rng(1).normal(size=(1, TOKENS, 24)).astype(np.float32)}
    shuffled = {"prompt_tokens.0": tokens["prompt_tokens.0"][:, ::-1]}
    found, again = (model.apply(adapted, {**variables, **t}, x)[0]["features"] for t in (tokens, shuffled))
    np.testing.assert_allclose(found, again, rtol=1e-4, atol=1e-5)  # the order does not matter
    assert np.abs(found - model.apply(graph, variables, x)[0]["features"]).max() > 1e-3


def test_a_model_without_blocks_is_refused():
    with pytest.raises(finetune.ScopeError, match="scope='prompt_deep'.*not a chain of blocks"):
        prompts.inserted(conv_parts().graph.select({"features": "features"}), TOKENS, deep=True)
