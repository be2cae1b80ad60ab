"""Operators against ATen, in float64, called with the same arguments."""

import ast
import importlib
import math
import operator
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from vtabjax import ops

RNG = np.random.default_rng(0)


def r(*shape):
    return RNG.standard_normal(shape)


def p(*shape):
    return RNG.uniform(0.2, 2.0, shape)


def i(high, *shape):
    return RNG.integers(0, high, shape)


IMAGE, ODD = r(2, 6, 8, 8), r(2, 4, 7, 9)

# operator, arguments (arrays become tensors), keyword arguments
CASES = [
    # convolution: stride, padding, dilation, groups, strings, kernels larger than the image
    ("aten.conv1d.default", (r(2, 4, 9), r(6, 2, 3), r(6), [2], [1], [1], 2)),
    ("aten.conv2d.default", (ODD, r(6, 4, 3, 2), r(6), [2, 1], [1, 0], [1, 2])),
    ("aten.conv2d.default", (ODD, r(8, 1, 3, 3), None, [1, 1], [1, 1], [1, 1], 4)),
    ("aten.conv2d.default", (ODD, r(8, 2, 3, 3), r(8), [2, 2], [1, 1], [1, 1], 2)),
    ("aten.conv2d.default", (r(2, 4, 2, 2), r(6, 4, 5, 5), None, [1, 1], [2, 2])),
    ("aten.conv2d.padding", (ODD, r(6, 4, 4, 3), r(6), [1, 1], "same")),
    ("aten.conv2d.padding", (ODD, r(6, 4, 4, 3), None, [2, 2], "valid")),
    ("aten.conv3d.default", (r(1, 2, 4, 5, 6), r(3, 2, 2, 3, 3), r(3), [1, 2, 1], [0, 1, 1])),
    ("aten.convolution.default", (ODD, r(6, 4, 3, 3), r(6), [1, 1], [1, 1], [1, 1], False, [0, 0], 1)),
    ("aten.conv_transpose1d.default", (r(2, 4, 5), r(4, 3, 3), r(3), [2], [1], [1])),
    ("aten.conv_transpose2d.input", (ODD, r(4, 3, 3, 2), r(6), [2, 3], [1, 0], [1, 2], 2, [1, 1])),
    ("aten.conv_transpose3d.input", (r(1, 2, 3, 4, 3), r(2, 3, 2, 3, 2), r(3), [2, 1, 2], [0, 1, 1])),
    # pooling
    ("aten.max_pool1d.default", (r(2, 4, 9), [3], [2], [1])),
    ("aten.max_pool2d.default", (ODD, [3, 2], [2, 2], [1, 0], [1, 2])),
    ("aten.max_pool2d.default", (ODD, [3, 3], [2, 2], [0, 0], [1, 1], True)),
    ("aten.max_pool2d.default", (ODD, [2, 2])),
    ("aten.avg_pool1d.default", (r(2, 4, 9), [3], [2], [1])),
    ("aten.avg_pool2d.default", (ODD, [3, 3], [2, 2], [1, 1], True, True)),
    ("aten.avg_pool2d.default", (ODD, [3, 3], [2, 2], [1, 1], True, False)),
    ("aten.avg_pool2d.default", (ODD, [2, 2], [2, 2], [0, 0], True, False)),
    ("aten.avg_pool2d.default", (ODD, [3, 2], [1, 2], [1, 1], False, True, 5)),
    ("aten.avg_pool3d.default", (r(1, 2, 4, 6, 6), [2, 3, 2], [2, 2, 1])),
    ("aten.adaptive_avg_pool1d.default", (r(2, 3, 7), [3])),
    ("aten.adaptive_avg_pool2d.default", (ODD, [3, 5])),
    ("aten.adaptive_avg_pool2d.default", (IMAGE, [4, 2])),
    ("aten.adaptive_avg_pool2d.default", (r(1, 2, 3, 3), [7, 7])),
    ("aten.adaptive_max_pool2d.default", (ODD, [3, 5])),
    ("aten.max_pool2d_with_indices.default", (ODD, [3, 2], [2, 2])),
    ("aten.max_pool3d.default", (r(1, 2, 5, 6, 7), [2, 3, 2], [2, 2, 1], [1, 1, 0])),
    ("aten._adaptive_avg_pool2d.default", (ODD, [3, 5])),
    ("aten.adaptive_avg_pool3d.default", (r(1, 2, 5, 6, 7), [2, 3, 5])),
    ("aten.adaptive_max_pool1d.default", (r(2, 3, 7), [3])),
    # normalisation
    ("aten.layer_norm.default", (r(2, 5, 6), [5, 6], r(5, 6), r(5, 6), 1e-6)),
    ("aten.group_norm.default", (IMAGE, 3, r(6), r(6), 1e-5)),
    ("aten.instance_norm.default", (IMAGE, r(6), r(6), None, None, True, 0.1, 1e-5, False)),
    ("aten.instance_norm.default", (IMAGE, r(6), r(6), r(6), p(6), False, 0.1, 1e-5, False)),
    ("aten.rms_norm.default", (r(2, 5, 6), [6], r(6), None)),
    ("aten.rms_norm.default", (r(2, 5, 6), [6], r(6), 1e-3)),
    ("aten.native_layer_norm.default", (r(2, 6), [6], None, None, 1e-5)),
    ("aten.native_group_norm.default", (IMAGE, r(6), r(6), 2, 6, 64, 3, 1e-5)),
    # activations
    *[(f"aten.{name}.default", (np.concatenate([r(50) * 4, [-0.0, 3.0, -3.0, 6.0]]),)) for name in (
        "relu", "relu6", "silu", "sigmoid", "tanh", "hardswish", "hardsigmoid", "hardtanh", "leaky_relu", "elu",
        "celu", "selu", "softplus", "mish", "log_sigmoid", "gelu",
    )],
    ("aten.gelu.default", (r(50),), {"approximate": "tanh"}),
    ("aten.elu.default", (r(50), 0.7, 1.3, 0.9)),
    ("aten.softplus.default", (r(50) * 20, 2.0, 10.0)),
    ("aten.prelu.default", (IMAGE, r(6))),
    ("aten.glu.default", (r(2, 6, 4), 1)),
    ("aten.softmax.int", (r(3, 5), -1)),
    ("aten.log_softmax.int", (r(3, 5), 0)),
    ("aten._softmax.default", (r(3, 5), 0, False)),
    ("aten._log_softmax.default", (r(3, 5), -1, False)),
    # attention
    ("aten.scaled_dot_product_attention.default", (r(2, 3, 4, 8), r(2, 3, 5, 8), r(2, 3, 5, 6), r(2, 3, 4, 5))),
    ("aten.scaled_dot_product_attention.default", (r(2, 3, 5, 8), r(2, 3, 5, 8), r(2, 3, 5, 8), None, 0.0, True)),
    ("aten.scaled_dot_product_attention.default", (r(2, 4, 8), r(2, 5, 8), r(2, 5, 8), p(4, 5) > 0.7), {"scale": 0.5}),
    ("aten.scaled_dot_product_attention.default", (r(2, 4, 3, 8), r(2, 2, 3, 8), r(2, 2, 3, 8)), {"enable_gqa": True}),
    # element-wise
    ("aten.add.Tensor", (r(3), r(3)), {"alpha": 2}),
    ("aten.sub.Tensor", (r(3), r(3)), {"alpha": 0.5}),
    ("aten.rsub.Scalar", (r(3), 2.0)),
    ("aten.div.Tensor_mode", (r(9) * 5, r(9)), {"rounding_mode": "floor"}),
    ("aten.div.Tensor_mode", (r(9) * 5, r(9)), {"rounding_mode": "trunc"}),
    ("aten.div.Tensor_mode", (i(20, 9) - 10, i(4, 9) + 2), {"rounding_mode": "trunc"}),
    ("aten.div.Scalar_mode", (i(20, 9) - 10, 3), {"rounding_mode": "trunc"}),
    ("aten.div.Scalar_mode", (i(20, 9) - 10, 3), {"rounding_mode": "floor"}),
    ("aten.floor_divide.default", (i(20, 9) - 10, np.array([3]))),
    ("aten.remainder.Scalar", (r(9) * 5, 1.5)),
    ("aten.fmod.Scalar", (r(9) * 5, 1.5)),
    ("aten.pow.Tensor_Scalar", (p(5), 2)),
    ("aten.pow.Tensor_Scalar", (p(5), -0.5)),
    ("aten.pow.Tensor_Scalar", (i(5, 4), 3)),
    ("aten.pow.Scalar", (2.0, r(5))),
    ("aten.pow.Tensor_Tensor", (p(5), r(5))),
    *[(f"aten.{name}.default", (p(9) * 0.4,)) for name in (
        "neg", "abs", "sqrt", "rsqrt", "square", "reciprocal", "exp", "exp2", "expm1", "log", "log2", "log10", "log1p",
        "sin", "cos", "tan", "asin", "acos", "atan", "erf", "sign", "floor", "ceil", "trunc", "isnan", "isfinite",
    )],
    ("aten.round.default", (np.array([0.5, 1.5, 2.5, -0.5, 1.2]),)),
    ("aten.atan2.default", (r(5), r(5))),
    ("aten.clamp.default", (r(9), -0.5)),
    ("aten.clamp.default", (r(9), None, 0.5)),
    ("aten.clamp_min.default", (r(9), 0.1)),
    ("aten.where.self", (r(4) > 0, r(4), r(4))),
    ("aten.where.ScalarOther", (r(4) > 0, r(4), 2.0)),
    ("aten.masked_fill.Scalar", (r(4), r(4) > 0, -math.inf)),
    ("aten.lerp.Scalar", (r(4), r(4), 0.3)),
    ("aten.addcmul.default", (r(4), r(4), r(4)), {"value": 0.5}),
    ("aten.addcdiv.default", (r(4), r(4), p(4)), {"value": 0.5}),
    ("aten.nan_to_num.default", (np.array([np.nan, 1.0, np.inf]), 2.0, 9.0, -9.0)),
    ("aten.logical_and.default", (r(9) > 0, r(9) > 0)),
    ("aten.bitwise_not.default", (r(9) > 0,)),
    ("aten.logical_or.default", (r(9) > 0, r(9) > 0)),
    ("aten.logical_not.default", (i(3, 9) - 1,)),
    *[(f"aten.{name}.Tensor", (i(8, 9), i(8, 9))) for name in (
        "bitwise_and", "bitwise_or", "__and__", "__or__", "eq", "ne", "lt", "le", "gt", "ge",
    )],
    *[(f"aten.{name}.Scalar", (i(3, 9), 1)) for name in ("eq", "ne", "lt", "le", "gt", "ge")],
    ("aten.mul.Tensor", (r(3, 1), r(4))),
    ("aten.true_divide.Tensor", (r(5), i(9, 5) + 1)),
    ("aten.maximum.default", (r(9), r(9))),
    ("aten.minimum.default", (r(9), r(9))),
    ("aten.clamp_max.default", (r(9), 0.1)),
    ("aten.clip.default", (r(9), -0.5, 0.5)),
    ("aten.isinf.default", (np.array([np.nan, 1.0, np.inf, -np.inf]),)),
    ("aten._to_copy.default", (r(5) * 3,), {"dtype": torch.int64}),
    ("aten.to.dtype", (i(5, 4), torch.float64)),
    ("aten.to.dtype", (r(4) * 3, torch.int64, False, True)),
    ("aten.to.other", (r(4), np.array([1]))),
    ("aten.type_as.default", (i(5, 4), r(1))),
    ("aten.copy.default", (r(3, 4), r(4))),
    ("aten.detach.default", (r(4),)),
    # reductions
    ("aten.mean.dim", (IMAGE, [2, 3], True)),
    ("aten.sum.dim_IntList", (IMAGE, [1])),
    ("aten.amax.default", (IMAGE, [-1], True)),
    ("aten.max.dim", (IMAGE, 1, True)),
    ("aten.min.dim", (IMAGE, -1)),
    ("aten.max.other", (r(4), r(4))),
    ("aten.argmax.default", (IMAGE, 1)),
    ("aten.var.correction", (IMAGE, [2, 3]), {"correction": 0, "keepdim": True}),
    ("aten.var_mean.correction", (IMAGE, [1]), {}),
    ("aten.std.dim", (IMAGE, [1], False, True)),
    ("aten.var.dim", (IMAGE, [1, 2], True)),
    ("aten.linalg_vector_norm.default", (IMAGE, 2.0, [1], True)),
    ("aten.linalg_vector_norm.default", (IMAGE, 1.0, [2, 3])),
    ("aten.linalg_vector_norm.default", (IMAGE, math.inf, [-1])),
    ("aten.linalg_vector_norm.default", (IMAGE, -math.inf, [-1])),
    ("aten.linalg_vector_norm.default", (IMAGE * (IMAGE > 0), 0, [1, 2], True)),
    ("aten.linalg_vector_norm.default", (p(3, 4), -1.5, [1])),
    ("aten.norm.ScalarOpt_dim", (IMAGE, 3.0, [1])),
    ("aten.norm.ScalarOpt_dim", (IMAGE * (IMAGE > 0), 0, [1])),
    ("aten.logsumexp.default", (IMAGE, [1], True)),
    ("aten.cumsum.default", (IMAGE, -1)),
    ("aten.cumprod.default", (p(3, 4), 1)),
    ("aten.topk.default", (r(3, 9), 4, 1)),
    ("aten.sort.default", (r(3, 9), 0, True)),
    ("aten.any.dim", (r(3, 9) > 1, 1)),
    ("aten.any.default", (r(3, 9) > 9,)),
    ("aten.all.dim", (r(3, 9) > -1, 1, True)),
    ("aten.all.default", (r(3, 9) > -9,)),
    ("aten.mean.default", (IMAGE,)),
    ("aten.max.default", (IMAGE,)),
    ("aten.min.default", (IMAGE,)),
    ("aten.min.other", (r(4), r(4))),
    ("aten.amin.default", (IMAGE, [1, 2])),
    ("aten.argmin.default", (IMAGE, -1, True)),
    ("aten.argmax.default", (IMAGE,)),
    ("aten.prod.default", (p(3, 4),)),
    ("aten.prod.dim_int", (p(3, 4), 1, True)),
    *[(f"aten.{name}.default", (IMAGE, unbiased))
      for name in ("var", "std", "var_mean", "std_mean") for unbiased in (False, True)],
    *[(f"aten.{name}.correction", (IMAGE, [0, 2]), {"correction": 3}) for name in ("std", "std_mean")],
    ("aten.var_mean.dim", (IMAGE, [1], False, True)),
    ("aten.std_mean.dim", (IMAGE, [1, 2], True, False)),
    ("aten.argsort.default", (r(3, 9), 1, True)),
    ("aten.argsort.stable", (i(3, 3, 9),), {"stable": True}),
    ("aten.sort.stable", (i(3, 3, 9),), {"stable": True, "dim": 1, "descending": True}),
    ("aten.topk.default", (r(3, 9), 2, -1, False)),
    ("aten.reciprocal.default", (np.array([1, 3, 7]),)),
    ("aten.div.Tensor", (np.array([1, 2, 5]), np.array([3, 7, 9]))),
    ("aten.div.Tensor", (np.array([1, 2, 5]), 7)),
    ("aten.bucketize.Tensor", (IMAGE, np.array([-1.0, 0.0, 0.25, 2.0]))),
    *[("aten.bucketize.Tensor", (np.array([[-1.0, 0.5], [2.0, 3.0]]), np.array([-1.0, 0.5, 2.0])), {"right": right})
      for right in (False, True)],
    # shapes
    ("aten.flatten.using_ints", (IMAGE, 1, 2)),
    ("aten.unflatten.int", (IMAGE, 1, [2, -1])),
    ("aten.squeeze.dims", (r(2, 1, 3, 1), [1, 2])),
    ("aten.movedim.int", (IMAGE, 1, -1)),
    ("aten.expand.default", (r(3, 1), [2, 3, 4])),
    ("aten.expand.default", (r(3, 1), [2, -1, 4])),
    ("aten.repeat.default", (r(2, 3), [2, 1, 3])),
    ("aten.repeat_interleave.self_int", (r(2, 3), 2, 1)),
    ("aten.cat.default", ([r(2, 3), r(2, 1)], 1)),
    ("aten.stack.default", ([r(2, 3), r(2, 3)], -1)),
    ("aten.split.Tensor", (r(7, 3), 3)),
    ("aten.split_with_sizes.default", (r(7, 3), [2, 5])),
    ("aten.chunk.default", (r(2, 7), 3, 1)),
    ("aten.tensor_split.sections", (r(7, 2), 3)),
    ("aten.unbind.int", (r(2, 3), 1)),
    ("aten.pad.default", (IMAGE, [1, 2, 0, -1])),
    ("aten.pad.default", (IMAGE, [1, 2, 3, 0], "reflect")),
    ("aten.pad.default", (IMAGE, [1, 2, 3, 0], "replicate")),
    ("aten.pad.default", (IMAGE, [1, 2, 3, 0], "circular")),
    ("aten.pad.default", (IMAGE, [1, 1], "constant", -math.inf)),
    ("aten.roll.default", (IMAGE, [-2, 3], [2, 3])),
    ("aten.roll.default", (r(3, 4), [2])),
    ("aten.flip.default", (IMAGE, [1, 3])),
    ("aten.unfold.default", (IMAGE, 2, 3, 2)),
    ("aten.pixel_shuffle.default", (r(2, 8, 3, 2), 2)),
    ("aten.pixel_unshuffle.default", (IMAGE, 2)),
    ("aten.channel_shuffle.default", (IMAGE, 3)),
    ("aten.im2col.default", (ODD, [3, 2], [1, 2], [1, 0], [2, 1])),
    ("aten.col2im.default", (r(2, 12, 16), [7, 9], [3, 2], [1, 2], [1, 0], [2, 2])),
    ("aten.narrow.default", (IMAGE, 1, 2, 3)),
    ("aten.diagonal.default", (r(4, 4, 3), 1, 0, 1)),
    ("aten.tril.default", (r(4, 5), 1)),
    ("aten.triu.default", (r(4, 5), -1)),
    ("aten.view.default", (r(2, 6), [3, -1])),
    ("aten._unsafe_view.default", (r(2, 6), [4, 3])),
    ("aten.reshape.default", (r(2, 6), [-1, 2])),
    ("aten.view_as.default", (r(2, 6), r(3, 4))),
    ("aten.reshape_as.default", (r(2, 6), r(4, 3))),
    ("aten.unsqueeze.default", (r(2, 3), -1)),
    ("aten.squeeze.default", (r(2, 1, 3, 1),)),
    ("aten.squeeze.dim", (r(2, 1, 3), 0)),
    ("aten.permute.default", (r(2, 3, 4), [2, 0, -2])),
    ("aten.transpose.int", (r(2, 3, 4), 0, -1)),
    ("aten.swapaxes.default", (r(2, 3, 4), 1, 2)),
    ("aten.t.default", (r(2, 3),)),
    ("aten.numpy_T.default", (r(2, 3),)),
    ("aten.expand_as.default", (r(3, 1), r(2, 3, 4))),
    ("aten.broadcast_to.default", (r(3, 1), [2, 3, 4])),
    ("aten.tile.default", (r(2, 3, 4), [3, 2])),
    ("aten.concat.default", ([r(2, 3), r(2, 1)], -1)),
    ("aten.constant_pad_nd.default", (r(2, 3), [1, 0, -1, 2], 0.5)),
    ("aten.reflection_pad1d.default", (r(2, 3, 5), [2, 1])),
    ("aten.reflection_pad2d.default", (ODD, [1, 2, 3, 0])),
    ("aten.replication_pad2d.default", (ODD, [1, 2, 3, 0])),
    # selecting and scattering
    ("aten.select.int", (IMAGE, 1, -2)),
    ("aten.slice.Tensor", (IMAGE, 1, -5, 99, 2)),
    ("aten.slice.Tensor", (IMAGE, 1, 4, 2)),
    ("aten.index.Tensor", (IMAGE, [None, i(6, 3)])),
    ("aten.index.Tensor", (IMAGE, [None, i(6, 3, 1), None, i(8, 4)])),
    ("aten.index_put.default", (r(4, 3), [np.array([0, 2])], r(2, 3))),
    ("aten.index_put.default", (r(4, 3), [np.array([1, 1])], r(2, 3), True)),
    ("aten.index_select.default", (IMAGE, 2, i(8, 5))),
    ("aten.gather.default", (r(4, 5), 1, i(5, 3, 2))),
    ("aten.take_along_dim.default", (r(4, 5), i(5, 4, 2), 1)),
    ("aten.embedding.default", (r(7, 3), i(7, 2, 4))),
    ("aten.take.default", (r(4, 5), np.array([[0, 19], [7, 7]]))),
    ("aten.masked_select.default", (r(4, 5), r(4, 5) > 0)),
    ("aten.scatter.src", (r(4, 5), 1, np.array([[0, 2], [1, 4]]), r(2, 2))),
    ("aten.scatter_add.default", (r(4, 5), 0, np.array([[0, 0, 1], [0, 3, 3]]), r(2, 3))),
    ("aten.slice_scatter.default", (IMAGE, r(2, 2, 8, 8), 1, 1, 5, 2)),
    ("aten.select_scatter.default", (IMAGE, r(2, 8, 8), 1, -1)),
    # products
    ("aten.linear.default", (r(2, 3, 4), r(5, 4), r(5))),
    ("aten.addmm.default", (r(5), r(3, 4), r(4, 5)), {"beta": 0.5, "alpha": 2}),
    ("aten.baddbmm.default", (r(2, 3, 5), r(2, 3, 4), r(2, 4, 5))),
    ("aten.einsum.default", ("bij, bjk -> bik", [r(2, 3, 4), r(2, 4, 5)])),
    ("aten.matmul.default", (r(2, 3, 4), r(4))),
    ("aten.cdist.default", (r(2, 3, 4), r(2, 5, 4))),
    *[("aten.cdist.default", (i(3, 3, 4) * 1.0, i(3, 5, 4) * 1.0, p)) for p in (0.0, 1.0, 1.5, math.inf)],
    ("aten.cross.default", (r(3, 4, 3), r(3, 4, 3))),
    ("aten.cross.default", (r(2, 3, 3), r(1, 3, 3), 2)),
    ("aten.linalg_cross.default", (r(3, 4, 3), r(3, 4, 3))),
    ("aten.linalg_cross.default", (r(2, 3, 4), r(2, 3, 4)), {"dim": 1}),
    ("aten.mm.default", (r(3, 4), r(4, 5))),
    ("aten.bmm.default", (r(2, 3, 4), r(2, 4, 5))),
    ("aten.mv.default", (r(3, 4), r(4))),
    ("aten.dot.default", (r(4), r(4))),
    ("aten.outer.default", (r(3), r(4))),
    # made from nothing
    ("aten.arange.start_step", (1, 9, 3)),
    ("aten.linspace.default", (0.0, 1.0, 5), {"dtype": torch.float64}),
    ("aten.one_hot.default", (i(5, 4), 5)),
    ("aten.meshgrid.indexing", ([r(3), r(4)],), {"indexing": "xy"}),
    ("aten.full_like.default", (r(3), 2.5)),
    ("aten.new_zeros.default", (r(3), [2, 2])),
    ("aten.new_ones.default", (i(3, 3), [2, 2])),
    ("aten.new_full.default", (r(3), [2, 2], 1.5)),
    *[(f"aten.{name}.default", ([2, 3],), {"dtype": torch.float64}) for name in ("zeros", "ones")],
    *[(f"aten.{name}.default", (r(2, 3),)) for name in ("zeros_like", "ones_like")],
    ("aten.full.default", ([2, 3], 2.5)),
    ("aten.full.default", ([2, 3], 2)),
    ("aten.arange.default", (5,)),
    ("aten.arange.start", (2, 7), {"dtype": torch.float64}),
    ("aten.eye.default", (3,)),
    ("aten.eye.m", (3, 4)),
    ("aten.scalar_tensor.default", (2.5,)),
    # interpolation
    ("aten.upsample_nearest2d.vec", (ODD, [5, 12], None)),
    ("aten.upsample_nearest2d.vec", (ODD, None, [1.7, 2.3])),
    ("aten._upsample_nearest_exact2d.vec", (ODD, [5, 12], None)),
    ("aten.upsample_nearest1d.vec", (r(2, 4, 7), None, [1.7])),
    ("aten.upsample_nearest1d.default", (r(2, 4, 7), [5])),
    ("aten.upsample_nearest1d.default", (r(2, 4, 7), [11], 1.7)),
    *[(f"aten.{name}.default", (ODD, [11, 20], 1.7, 2.3)) for name in (
        "upsample_nearest2d", "_upsample_nearest_exact2d",
    )],
    ("aten.upsample_linear1d.vec", (r(2, 4, 7), None, False, [1.7])),
    ("aten.upsample_linear1d.default", (r(2, 4, 7), [11], False, 1.7)),
    ("aten.upsample_linear1d.default", (r(2, 4, 7), [5], True)),
    *[(f"aten.{name}.default", (ODD, [11, 20], False, 1.7, 2.3)) for name in (
        "upsample_bilinear2d", "upsample_bicubic2d", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa",
    )],
    *[(f"aten.upsample_{kind}.vec", (ODD, size, corners, factors))
      for kind in ("bilinear2d", "bicubic2d")
      for corners in (False, True)
      for size, factors in (([5, 12], None), (None, [1.7, 2.3]), ([14, 1], None))],
    *[(f"aten._upsample_{kind}_aa.vec", (ODD, size, False, None))
      for kind in ("bilinear2d", "bicubic2d")
      for size in ([3, 4], [5, 20], [16, 2])],
    ("aten.grid_sampler_2d.default", (ODD, RNG.uniform(-1.2, 1.2, (2, 5, 3, 2)), 1, 0, True)),
    *[("aten.grid_sampler.default", (ODD, RNG.uniform(-1.2, 1.2, (2, 5, 3, 2)), 0, padding, corners))
      for padding in (0, 1) for corners in (False, True)],
]  # fmt: skip


def _map(tree, function):
    if isinstance(tree, dict):
        return {k: _map(v, function) for k, v in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(_map(v, function) for v in tree)
    return function(tree)


_DTYPES = {torch.float64: jnp.float64, torch.int64: jnp.int64}


def _to_jax(value):
    return jnp.asarray(value) if isinstance(value, np.ndarray) else _DTYPES.get(value, value)


def _to_torch(value):
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value


def _flat(result):
    return list(result) if isinstance(result, (list, tuple)) else [result]


@pytest.mark.parametrize("case", CASES, ids=lambda c: c[0])
def test_equals_aten(case):
    op, args, kwargs = (*case, {})[:3]
    _, name, overload = op.split(".")
    expected = getattr(getattr(torch.ops.aten, name), overload)(
        *_map(args, _to_torch), **_map(kwargs, _to_torch)
    )
    with jax.enable_x64(True):
        ours = ops.lookup(op)(*_map(args, _to_jax), **_map(kwargs, _to_jax))
    for a, b in zip(_flat(ours), _flat(expected), strict=True):
        if a is None:
            continue  # what nothing uses, such as the positions of maxima
        assert a.shape == tuple(b.shape)
        assert np.asarray(a).dtype.kind == b.numpy().dtype.kind
        np.testing.assert_allclose(np.asarray(a), b.numpy(), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_lstm(bidirectional):
    torch.manual_seed(0)
    layer = torch.nn.LSTM(4, 5, num_layers=2, batch_first=True, bidirectional=bidirectional).double()
    x = r(3, 7, 4)
    state = np.zeros(((2 if bidirectional else 1) * 2, 3, 5))
    expected, (h, c) = layer(torch.from_numpy(x))
    with jax.enable_x64(True):
        weights = [jnp.asarray(w.detach().numpy()) for w in layer._flat_weights]
        out = ops.lookup("aten.lstm.input")(
            jnp.asarray(x), [jnp.asarray(state)] * 2, weights, True, 2, 0.0, False, bidirectional, True
        )
    for ours, theirs in zip(out, (expected, h, c), strict=True):
        np.testing.assert_allclose(ours, theirs.detach(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    "name, args",
    [
        *[
            (name, ())
            for name in ("relu", "relu6", "hardtanh", "hardsigmoid", "hardswish", "leaky_relu", "elu")
        ],
        ("clamp", (-3.0, 3.0)),
        ("clamp_min", (0.0,)),
        ("clamp_max", (6.0,)),
        *[(name, ()) for name in ("gelu", "silu", "mish", "softplus", "selu")],
    ],
)
def test_gradients_equal_atens_at_the_kinks_too(name, args):
    x = np.concatenate([np.linspace(-7, 7, 57), [-1.0, 0.0, 1.0]])
    tensor = torch.from_numpy(x).requires_grad_()
    getattr(torch.ops.aten, name)(tensor, *args).sum().backward()
    with jax.enable_x64(True):
        ours = jax.grad(lambda x: ops.lookup(f"aten.{name}.default")(x, *args).sum())(jnp.asarray(x))
    np.testing.assert_allclose(ours, tensor.grad, rtol=1e-12, atol=1e-14)


def test_gradients_are_finite_where_pytorchs_are():
    """The norm of a zero vector, and the untaken branches of ELU and softplus."""
    assert np.isfinite(
        jax.grad(lambda x: ops.lookup("aten.linalg_vector_norm.default")(x))(jnp.zeros(3))
    ).all()
    for name in ("elu", "softplus", "gelu", "mish"):
        gradient = jax.grad(lambda x, name=name: ops.lookup(f"aten.{name}.default")(x).sum())(
            jnp.array([-1e4, -90.0, 0.0, 90.0, 1e4])
        )
        assert np.isfinite(gradient).all(), name


@pytest.mark.parametrize(
    "name, args", [("empty", ([2, 3],)), ("empty_like", (r(2, 3),)), ("new_empty", (r(1), [2, 3]))]
)
def test_what_is_not_yet_written_has_the_shape(name, args):
    """Their values mean nothing; programs fill them."""
    assert ops.lookup(f"aten.{name}.default")(*_map(args, _to_jax)).shape == (2, 3)


@pytest.mark.parametrize(
    "name", [n for n in ops.TABLE if n.startswith("operator.") and n != "operator.getitem"]
)
def test_arithmetic_of_shapes(name):
    numbers = (7,) if name == "operator.neg" else (7, 3)
    assert ops.lookup(name)(*numbers) == getattr(operator, name.removeprefix("operator."))(*numbers)


def test_sizes_are_integers():
    x = jnp.zeros((2, 3))
    assert ops.lookup("aten.sym_size.int")(x, -1) == 3 and ops.lookup("aten.sym_numel.default")(x) == 6
    assert ops.TABLE["sym_max"](2, 3) == 3 and ops.TABLE["sym_min"](2, 3) == 2
    assert ops.lookup("operator.getitem")((4, 5), 1) == 5


def test_every_operator_is_compared_with_aten():
    tested = {ops.entry(op) for op, *_ in CASES} | {"lstm", "lstm.input", "empty", "empty_like", "new_empty"}
    tested |= {n for n in ops.TABLE if n.startswith(("operator.", "sym_"))}
    assert sorted(set(ops.TABLE) - tested) == []


def _defined(path):
    """The public functions of a file that stand for operators; those on channels-last arrays are called so."""
    names = []
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            names.append(node.name)
        elif isinstance(node, ast.Assign):
            names += [target.id for target in node.targets if isinstance(target, ast.Name)]
    return (
        {n for n in names if not n.isupper() and not n.endswith("channels_last")} - ops.STATEFUL - {"__all__"}
    )


def test_every_file_lists_what_it_defines():
    folder = pathlib.Path(ops.__file__).parent
    without = {"__init__", "_depthwise", "_gradients", "_grouped", "_sizes", "channels_last", "trials"}
    files = {path.stem for path in folder.glob("*.py")} - without
    assert files == set(ops.FILES)
    for name in ops.FILES:
        listed = importlib.import_module(f"vtabjax.ops.{name}").__all__
        defined = _defined(folder / f"{name}.py")
        assert len(listed) == len(set(listed)) and set(listed) <= defined
        assert {n for n in defined - set(listed) if not n.startswith("_")} == set(), name


def test_unknown_operators_are_said_with_the_nearest():
    assert not ops.is_known("aten.nonsense.default")
    with pytest.raises(ops.UnknownOperatorError, match="nearest there: .*conv2d"):
        ops.lookup("aten.conv2dd.default", "stem")
