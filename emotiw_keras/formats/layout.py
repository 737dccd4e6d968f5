"""Changes of layout between foreign weights and Keras, each a pure function of arrays.

Foreign kernels are (out, in, height, width) in Caffe, PyTorch and ONNX ("oihw") and (height, width, in, out) in MatConvNet
and TensorFlow ("hwio", Keras' own). Sources: Caffe's `blob.hpp` and `inner_product_layer.cpp`, PyTorch's `nn.Conv2d`,
ONNX's `Conv` and `Gemm`, MatConvNet's `vl_nnconv`.
"""

from __future__ import annotations

import numpy as np


def kernel_to_hwio(kernel: np.ndarray) -> np.ndarray:
    """(out, in, height, width) -> (height, width, in, out). With groups, `in` is the channels of one group in both."""
    return kernel.transpose(2, 3, 1, 0)


def flat_chw_to_hwc(weight: np.ndarray, maps: tuple[int, int, int]) -> np.ndarray:
    """The first fully connected layer: (out, channels * height * width) -> (height * width * channels, out).

    `maps` is the (height, width, channels) of what it flattens; Caffe flattens channels first, Keras channels last.

    Example:
        >>> flat_chw_to_hwc(np.arange(8).reshape(1, 8), (2, 2, 2))[:, 0]
        array([0, 4, 1, 5, 2, 6, 3, 7])
    """
    height, width, channels = maps
    return weight.reshape(-1, channels, height, width).transpose(2, 3, 1, 0).reshape(height * width * channels, -1)


def dense_to_io(weight: np.ndarray) -> np.ndarray:
    """A fully connected layer on units: (out, in) -> (in, out)."""
    return weight.T


def kernel_to_dense(kernel: np.ndarray) -> np.ndarray:
    """A convolution that covers its whole input, MatConvNet's fully connected layer: (height, width, in, out) ->
    (height * width * in, out)."""
    return kernel.reshape(-1, kernel.shape[-1])


def swap_red_and_blue(kernel: np.ndarray) -> np.ndarray:
    """The first kernel (height, width, 3, out) for BGR images instead of RGB, or the other way round."""
    return kernel[:, :, ::-1]
