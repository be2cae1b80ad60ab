"""The importer: what torch.export records becomes a functional graph."""

import jax
import numpy as np
import pytest
import torch
from torch import nn

from converters import ExportError, from_torch
from converters.verify import compare
from vtabjax import ops
from vtabjax.graph import Graph
from vtabjax.model import apply


def _features(forward, *, size=8, parameters=None, batch=3):
    """Runs forward(module, x) in torch and as a graph, in float64; returns (graph, relative error)."""

    class Module(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 6, 3, padding=1)
            for name, value in (parameters or {}).items():
                setattr(self, name, value)

        def forward(self, x):
            return forward(self, x)

    torch.manual_seed(0)
    module = Module().double().eval()
    graph, variables = from_torch(module, (3, size, size))
    return graph, compare(module, graph, variables, batch=batch)["features"]


def _names(graph):
    return [n.op.split(".")[1] for n in graph.nodes]


def test_inplace_operators_become_new_values():
    def forward(m, x):
        y = m.conv(x)
        shortcut = y
        z = y.relu_()  # also what `shortcut` sees
        z += 1
        return (z * shortcut).mean((2, 3))

    graph, error = _features(forward)
    assert error < 1e-12
    assert not any(name.endswith("_") for name in _names(graph))


def test_writes_to_views_reach_what_they_are_a_view_of():
    def forward(m, x):
        y = m.conv(x).clone()
        y[:, 1:3].mul_(2)
        y[:, 0, :2].fill_(0.5)
        y.view(y.shape[0], -1)[:, -3:].add_(1)
        y.permute(0, 2, 3, 1)[:, 0].copy_(y.permute(0, 2, 3, 1)[:, 1])
        y.transpose(1, 2)[:, 3].zero_()
        return y.flatten(1)

    _, error = _features(forward)
    assert error < 1e-12


def test_a_view_made_before_a_write_and_used_after_it_is_refused_not_miscomputed():
    def forward(m, x):
        y = m.conv(x)
        early = y.flatten(1)
        y.mul_(2)
        return early

    with pytest.raises(ExportError, match="view"):
        _features(forward)


def test_a_clone_is_no_view():
    def forward(m, x):
        y = m.conv(x)
        kept = y.clone()
        y.relu_()
        return (y - kept).mean((2, 3))

    _, error = _features(forward)
    assert error < 1e-12


def test_what_depends_on_neither_input_nor_variables_is_a_constant():
    def forward(m, x):
        mask = torch.zeros(6, 8, 8, dtype=x.dtype)
        mask[:, ::2] = 1  # in-place on a constant
        grid = torch.arange(8, dtype=x.dtype).view(1, 1, 1, 8).expand(1, 6, 8, 8)
        return (m.conv(x) * mask + grid.sin()).flatten(1)

    graph, error = _features(forward)
    assert error < 1e-12
    assert _names(graph) == ["conv2d", "mul", "add", "flatten"]
    assert len(graph.constants) == 2


def test_writing_an_input_dependent_value_into_a_constant():
    def forward(m, x):
        canvas = torch.zeros(2, 6, 8, 8, dtype=x.dtype)
        canvas[0] = m.conv(x).mean(0)
        return m.conv(x).flatten(1) + canvas.sum(0).flatten()

    _, error = _features(forward)
    assert error < 1e-12


def test_unused_and_repeated_work_goes():
    def forward(m, x):
        m.conv(x * 3)  # unused
        return (m.conv(x).relu() + m.conv(x).relu()).mean((2, 3))

    graph, error = _features(forward)
    assert error < 1e-12
    assert sorted(_names(graph)) == ["add", "conv2d", "mean", "relu"]


@pytest.mark.parametrize("batch", [1, 5])
def test_batch_size_is_symbolic(batch):
    def forward(m, x):
        y = m.conv(x).view(x.shape[0] * 2, 3, 8, 8).transpose(0, 1).reshape(3, x.shape[0], -1)
        return y.permute(1, 0, 2).reshape(x.shape[0], -1)

    _, error = _features(forward, batch=batch)
    assert error < 1e-12


def test_buffers_outside_the_state_dict_are_constants():
    class Module(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("kept", torch.rand(3))
            self.register_buffer("lost", torch.rand(3), persistent=False)

        def forward(self, x):
            return x.mean((2, 3)) * self.kept + self.lost

    module = Module()
    graph, variables = from_torch(module, (3, 4, 4))
    assert list(variables) == list(module.state_dict()) == ["kept"]
    assert graph.variables["kept"].kind == "buffer"
    assert any(np.array_equal(c, module.lost.numpy()) for c in graph.constants.values())
    assert compare(module, graph, variables)["features"] < 1e-6


def test_no_grad_blocks_are_part_of_the_graph():
    def forward(m, x):
        with torch.no_grad():
            scale = m.conv(x).std((1, 2, 3), keepdim=True)
        return (m.conv(x) / scale).flatten(1)

    _, error = _features(forward)
    assert error < 1e-12


def test_the_module_is_left_as_it_was():
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Dropout(0.5), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1))
    module.train()
    module[2].eval()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    from_torch(module, (3, 4, 4))
    assert [m.training for m in module] == [True, True, False, True]
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())


def test_an_unknown_operator_is_named_with_its_module_and_the_way_out():
    class Block(nn.Module):
        def forward(self, x):
            return torch.linalg.pinv(x)

    module = nn.Sequential(nn.Identity(), Block(), nn.Flatten())
    with pytest.raises(ops.UnknownOperatorError) as error:
        from_torch(module, (3, 4, 4))
    message = str(error.value)
    assert "aten.linalg_pinv" in message and "'1'" in message and "vtabjax/ops/" in message


def test_a_module_without_a_tensor_of_features_is_refused():
    class Module(nn.Module):
        def forward(self, x):
            return [x, x]

    with pytest.raises(ExportError, match="features"):
        from_torch(Module(), (3, 4, 4))


def test_graph_survives_json():
    def forward(m, x):
        y = torch.nn.functional.pad(m.conv(x), (1, 1), value=float("-inf")).clamp(min=-1.0)
        return (y + torch.arange(10, dtype=x.dtype)).flatten(1)

    graph, _ = _features(forward)
    again = Graph.from_json(graph.to_json())
    assert again.nodes == graph.nodes and again.outputs == graph.outputs
    assert again.variables == graph.variables and again.input_size == graph.input_size
    assert all(np.array_equal(again.constants[k], v) for k, v in graph.constants.items())
    with pytest.raises(ValueError, match="format 99"):
        Graph.from_json(graph.to_json().replace('"format": 1', '"format": 99'))


def test_wrong_image_size_names_the_sizes():
    graph, variables = from_torch(nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1)), (3, 8, 8))
    with pytest.raises(ValueError, match=r"\[B, 8, 8, 3\]"):
        apply(graph, variables, np.zeros((1, 9, 9, 3), np.float32))
    with pytest.raises(ValueError, match="0.weight"):
        apply(graph, {}, np.zeros((1, 8, 8, 3), np.float32))
    out, updates = jax.jit(lambda v, x: apply(graph, v, x))(variables, np.zeros((1, 8, 8, 3), np.float32))
    assert out["features"].shape == (1, 4) and updates == {}
