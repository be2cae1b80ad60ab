"""FLOPs of an image, counted on the graph: as torch counts them, and by hand."""

import dataclasses
import json

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import converters
from converters import flops as estimates
from converters import sources
from vtabjax.graph import Graph, Node, Ref, Variable
from vtabjax.model import flops


def counted_by_torch(module: nn.Module, size: int) -> int:
    """On the meta device: on a CPU torch's counter overlooks fused attention."""
    module = module.to("meta").eval().requires_grad_(False)
    with FlopCounterMode(display=False) as counter, torch.no_grad(), torch.device("meta"):
        module(torch.zeros(1, 3, size, size))
    return counter.get_total_flops()


@pytest.mark.parametrize(
    ("architecture", "size", "expected"),
    [
        ("resnet50", 224, 8_178_368_512),  # 4.09 thousand million multiply-adds, as papers have it
        ("vit_tiny_patch16_224", 224, 2_507_366_400),
        ("convnext_atto", 224, 1_094_664_960),
        ("efficientnet_b0", 224, 771_629_504),
        ("swin_tiny_patch4_window7_224", 224, 8_981_133_312),
        ("mvitv2_tiny", 224, None),  # convolutions with heads for images
        ("mobilenetv3_small_100", 64, None),  # a convolution after pooling, within the head
        ("xcit_nano_12_p16_224", 224, None),
    ],
)
def test_as_torch_counts(architecture, size, expected):
    """Three ways to the same number: the graph, torch on the module, and what is said before a conversion."""
    module = sources.build(f"timm/{architecture}@random", size).module
    graph, _ = converters.from_torch(module, (3, size, size))
    found = flops.count(graph)
    assert found == counted_by_torch(module, size)
    assert expected is None or found == expected
    assert estimates.gflops(f"timm/{architecture}@random", size) == found / 1e9 == flops.gflops(graph)


@pytest.mark.parametrize("name", ["squeezenet1_1", "regnet_y_400mf", "vit_b_32", "googlenet"])
def test_torchvision_before_a_conversion(name):
    source = sources.build(f"torchvision/{name}@random", 64)
    graph, _ = converters.from_torch(source.module, (3, 64, 64))
    assert estimates.gflops(f"torchvision/{name}@random", 64) == flops.gflops(graph)


class Layers(nn.Module):
    """A transposed, a grouped and a one-dimensional convolution, an LSTM in two directions, a product by einsum."""

    def __init__(self):
        super().__init__()
        self.up = nn.ConvTranspose2d(3, 6, 2, stride=2)
        self.grouped = nn.Conv2d(6, 12, 3, groups=3)
        self.line = nn.Conv1d(12, 5, 3)
        self.lstm = nn.LSTM(5, 7, batch_first=True, bidirectional=True)

    def forward(self, x):
        x = self.grouped(self.up(x)).flatten(2)
        x, _ = self.lstm(self.line(x).transpose(1, 2))
        return torch.einsum("btc,bsc->bts", x, x).mean(2)


@pytest.mark.filterwarnings("ignore:The tensor attributes")
def test_by_hand():
    graph, _ = converters.from_torch(Layers().eval(), (3, 8, 8))
    up = 8 * 8 * 3 * 6 * 2 * 2
    grouped = 14 * 14 * 12 * 2 * 3 * 3
    steps = 14 * 14 - 2
    line = steps * 5 * 12 * 3
    lstm = 2 * steps * 4 * 7 * (5 + 7)
    product = steps * steps * 14
    assert flops.count(graph) == 2 * (up + grouped + line + lstm + product)


def linear(name: str, source: str, width: int) -> tuple[Node, dict[str, Variable]]:
    weight = Variable((width, 12), "float32", "parameter")
    return Node(name, "aten.linear.default", (Ref("value", source), Ref("variable", name)), {}), {
        name: weight
    }


def test_what_no_output_needs_is_not_counted():
    flat = Node("flat", "aten.flatten.using_ints", (Ref("value", "input"), 1), {})
    used, of_used = linear("used", "flat", 5)
    unused, of_unused = linear("unused", "flat", 7)
    graph = Graph(
        (flat, used, unused), {"features": Ref("value", "used")}, of_used | of_unused, {}, (3, 2, 2)
    )
    assert flops.count(graph) == 2 * 12 * 5
    both = {"features": Ref("value", "used"), "logits": Ref("value", "unused")}
    assert flops.count(dataclasses.replace(graph, outputs=both)) == 2 * 12 * (5 + 7)


def test_conversion_records_them(tmp_path):
    path = converters.convert("timm/test_resnet@random", tmp_path, input_size=32)
    info = json.loads((path / "model.json").read_text())
    assert info["gflops"] == estimates.gflops("timm/test_resnet@random", 32) > 0


def test_counting_downloads_nothing(tmp_path, monkeypatch):
    """Sources without a `skeleton` are built; those with one download nothing."""
    monkeypatch.setattr(
        "timm.models._builder.load_state_dict_from_hf", lambda *a, **k: pytest.fail("downloads")
    )
    monkeypatch.setattr(
        "torchvision.models.WeightsEnum.get_state_dict", lambda *a, **k: pytest.fail("downloads")
    )
    assert estimates.gflops("timm/resnet18.a1_in1k") == estimates.gflops("torchvision/resnet18") > 3.6
    assert estimates.gflops("baseline/pixels", 64) == 0


def test_a_source_without_skeletons_is_counted_at_random(monkeypatch):
    from converters.sources import timm

    expected = estimates.gflops("timm/resnet18.a1_in1k", 64)
    monkeypatch.delattr(timm, "skeleton")
    monkeypatch.setattr(
        "timm.models._builder.load_state_dict_from_hf", lambda *a, **k: pytest.fail("downloads")
    )
    assert estimates.gflops("timm/resnet18.a1_in1k", 64) == expected > 0.29
