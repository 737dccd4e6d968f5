"""The messages of Caffe's networks as tables of fields: number -> name and kind.

Source: `src/caffe/proto/caffe.proto` of BVLC Caffe, and of NVIDIA's for blobs. Kinds are those of `protobuf.Spec`; `*` marks a
repeated field. "any" are fields that are known and say nothing about the computation; a table with OTHERS passes over what it
does not have.
"""

from __future__ import annotations

from collections.abc import Mapping

from emotiw_keras.formats.protobuf import Schema, Spec


def _table(fields: Mapping[int, str], **names: Mapping[int, str]) -> Schema:
    table = {}
    for number, words in fields.items():
        name, kind = words.split()
        table[number] = Spec(name, kind.rstrip("*"), kind.endswith("*"), names.get(name, {}))
    return table


OTHERS = "*"
POOLS = {0: "MAX", 1: "AVE", 2: "STOCHASTIC"}
# Words of version 1 for layer types, in the order of their numbers, and the types as version 2 words them.
V1_TYPES = {
    "NONE": "None",
    "ACCURACY": "Accuracy",
    "BNLL": "BNLL",
    "CONCAT": "Concat",
    "CONVOLUTION": "Convolution",
    "DATA": "Data",
    "DROPOUT": "Dropout",
    "EUCLIDEAN_LOSS": "EuclideanLoss",
    "FLATTEN": "Flatten",
    "HDF5_DATA": "HDF5Data",
    "HDF5_OUTPUT": "HDF5Output",
    "IM2COL": "Im2col",
    "IMAGE_DATA": "ImageData",
    "INFOGAIN_LOSS": "InfogainLoss",
    "INNER_PRODUCT": "InnerProduct",
    "LRN": "LRN",
    "MULTINOMIAL_LOGISTIC_LOSS": "MultinomialLogisticLoss",
    "POOLING": "Pooling",
    "RELU": "ReLU",
    "SIGMOID": "Sigmoid",
    "SOFTMAX": "Softmax",
    "SOFTMAX_LOSS": "SoftmaxWithLoss",
    "SPLIT": "Split",
    "TANH": "TanH",
    "WINDOW_DATA": "WindowData",
    "ELTWISE": "Eltwise",
    "POWER": "Power",
    "SIGMOID_CROSS_ENTROPY_LOSS": "SigmoidCrossEntropyLoss",
    "HINGE_LOSS": "HingeLoss",
    "MEMORY_DATA": "MemoryData",
    "ARGMAX": "ArgMax",
    "THRESHOLD": "Threshold",
    "DUMMY_DATA": "DummyData",
    "SLICE": "Slice",
    "MVN": "MVN",
    "ABSVAL": "AbsVal",
    "SILENCE": "Silence",
    "CONTRASTIVE_LOSS": "ContrastiveLoss",
    "EXP": "Exp",
    "DECONVOLUTION": "Deconvolution",
}
_V1_WORDS = dict(enumerate(V1_TYPES))
# Version 0 has most of the same words in small letters.
V0_TYPES = {"conv": "Convolution", "images": "ImageData", "innerproduct": "InnerProduct", "pool": "Pooling"} | {
    word.lower(): V1_TYPES[word]
    for word in (
        "ACCURACY BNLL CONCAT DATA DROPOUT EUCLIDEAN_LOSS FLATTEN HDF5_DATA HDF5_OUTPUT IM2COL INFOGAIN_LOSS LRN "
        "MULTINOMIAL_LOGISTIC_LOSS RELU SIGMOID SOFTMAX SOFTMAX_LOSS SPLIT TANH WINDOW_DATA"
    ).split()
}

SHAPE = _table({1: "dim int*"})
BLOB = _table(
    {1: "num int", 2: "channels int", 3: "height int", 4: "width int", 5: "data data*"}
    | {6: "diff any*", 7: "shape message", 8: "double_data data*", 9: "double_diff any*"}
    | {10: "raw_data_type int", 11: "raw_diff_type any", 12: "raw_data message", 13: "raw_diff any"}
)
RAW_TYPES = {0: "<f8", 1: "<f4", 2: "<f2"}
"""NVIDIA's Caffe since 0.16 (DIGITS 6) keeps a blob's numbers as bytes, of a type that a number names."""
RULE = _table(
    {1: "phase enum", 2: "min_level int", 3: "max_level int", 4: "stage str*", 5: "not_stage str*"},
    phase={0: "TRAIN", 1: "TEST"},
)
NET = _table(
    {1: "name any", 2: "layers message*", 3: "input str*", 4: "input_dim int*", 5: "force_backward any"}
    | {6: "state any", 7: "debug_info any", 8: "input_shape message*", 100: "layer message*"}
)
LAYER = _table(
    {1: "name str", 2: "type str", 3: "bottom str*", 4: "top str*", 7: "blobs message*", 8: "include message*"}
    | {9: "exclude message*", 5: "loss_weight any*", 6: "param any*", 10: "phase any", 11: "propagate_down any*"}
    | {100: "transform_param message", 107: "data_param message", 115: "image_data_param message"}
    | {129: "window_data_param message"}
    | {104: "concat_param message", 106: "convolution_param message", 108: "dropout_param message"}
    | {110: "eltwise_param message", 117: "inner_product_param message", 118: "lrn_param message"}
    | {121: "pooling_param message", 123: "relu_param message", 125: "softmax_param message", 131: "prelu_param message"}
    | {133: "reshape_param message"}
    | {135: "flatten_param message", 139: "batch_norm_param message", 142: "scale_param message", 143: "input_param message"}
)
V1_LAYER = _table(
    {1: "layer message", 2: "bottom str*", 3: "top str*", 4: "name str", 5: "type enum", 6: "blobs message*"}
    | {7: "blobs_lr any*", 8: "weight_decay any*", 32: "include message*", 33: "exclude message*", 35: "loss_weight any*"}
    | {9: "concat_param message", 10: "convolution_param message", 12: "dropout_param message", 24: "eltwise_param message"}
    | {17: "inner_product_param message", 18: "lrn_param message", 19: "pooling_param message", 30: "relu_param message"}
    | {11: "data_param message", 15: "image_data_param message", 20: "window_data_param message"}
    | {36: "transform_param message", 39: "softmax_param message", 1001: "param any*", 1002: "blob_share_mode any*"},
    type=_V1_WORDS,
)
V0_LAYER = _table(
    {1: "name str", 2: "type str", 3: "num_output int", 4: "biasterm bool", 7: "pad int", 8: "kernelsize int"}
    | {9: "group int", 10: "stride int", 11: "pool enum", 13: "local_size int", 14: "alpha float", 15: "beta float"}
    | {22: "k float", 50: "blobs message*", 65: "concat_dim int"}
    | {5: "weight_filler any", 6: "bias_filler any", 12: "dropout_ratio any", 16: "source any", 17: "scale float"}
    | {18: "meanfile str", 19: "batchsize any", 20: "cropsize any", 21: "mirror any", 51: "blobs_lr any*"}
    | {52: "weight_decay any*", 53: "rand_skip any", 54: "det_fg_threshold any", 55: "det_bg_threshold any"}
    | {56: "det_fg_fraction any", 58: "det_context_pad any", 59: "det_crop_mode any", 60: "new_num any"}
    | {61: "new_channels any", 62: "new_height any", 63: "new_width any", 64: "shuffle_images any"}
    | {1001: "hdf5_output_param any"},
    pool=POOLS,
)
TRANSFORMATION = _table({0: f"{OTHERS} any", 1: "scale float", 4: "mean_file str", 5: "mean_value float*"})
"""What is done to images, of any layer that feeds a network; forks of Caffe have many fields more."""
_DATA = _table({0: f"{OTHERS} any", 2: "scale float", 3: "mean_file str"})  # as they had it before TRANSFORMATION
CONVOLUTION = _table(
    {1: "num_output int", 2: "bias_term bool", 3: "pad int*", 4: "kernel_size int*", 5: "group int", 6: "stride int*"}
    | {9: "pad_h int", 10: "pad_w int", 11: "kernel_h int", 12: "kernel_w int", 13: "stride_h int", 14: "stride_w int"}
    | {16: "axis int", 18: "dilation int*", 7: "weight_filler any", 8: "bias_filler any", 15: "engine any"}
    | {17: "force_nd_im2col any"}
)
INNER_PRODUCT = _table(
    {1: "num_output int", 2: "bias_term bool", 3: "weight_filler any", 4: "bias_filler any", 5: "axis int", 6: "transpose bool"}
)
LRN = _table(
    {1: "local_size int", 2: "alpha float", 3: "beta float", 4: "norm_region enum", 5: "k float", 6: "engine any"},
    norm_region={0: "ACROSS_CHANNELS", 1: "WITHIN_CHANNEL"},
)
POOLING = _table(
    {1: "pool enum", 2: "kernel_size int*", 3: "stride int*", 4: "pad int*", 5: "kernel_h int", 6: "kernel_w int"}
    | {7: "stride_h int", 8: "stride_w int", 9: "pad_h int", 10: "pad_w int", 11: "engine any", 12: "global_pooling bool"}
    | {13: "round_mode enum"},
    pool=POOLS,
    round_mode={0: "CEIL", 1: "FLOOR"},
)
PARAMS: dict[str, tuple[str, Schema]] = {
    "AnnotatedData": ("data_param", _DATA),
    "BatchNorm": (
        "batch_norm_param",
        _table({1: "use_global_stats bool", 2: "moving_average_fraction any", 3: "eps float"}),
    ),
    "Concat": ("concat_param", _table({1: "concat_dim int", 2: "axis int"})),
    "Convolution": ("convolution_param", CONVOLUTION),
    "Data": ("data_param", _DATA),
    "Dropout": ("dropout_param", _table({1: "dropout_ratio any", 2: "scale_train bool"})),
    "Eltwise": (
        "eltwise_param",
        _table({1: "operation enum", 2: "coeff float*", 3: "stable_prod_grad any"}, operation={0: "PROD", 1: "SUM", 2: "MAX"}),
    ),
    "Flatten": ("flatten_param", _table({1: "axis int", 2: "end_axis int"})),
    "ImageData": ("image_data_param", _DATA),
    "InnerProduct": ("inner_product_param", INNER_PRODUCT),
    "Input": ("input_param", _table({1: "shape message*"})),
    "LRN": ("lrn_param", LRN),
    "PReLU": ("prelu_param", _table({1: "filler any", 2: "channel_shared any"})),
    "Pooling": ("pooling_param", POOLING),
    "ReLU": ("relu_param", _table({1: "negative_slope float", 2: "engine any"})),
    "Reshape": ("reshape_param", _table({1: "shape message", 2: "axis int", 3: "num_axes int"})),
    "Scale": (
        "scale_param",
        _table({1: "axis int", 2: "num_axes int", 3: "filler any", 4: "bias_term bool", 5: "bias_filler any"}),
    ),
    "Softmax": ("softmax_param", _table({1: "engine any", 2: "axis int"})),
    "SoftmaxWithLoss": ("softmax_param", _table({1: "engine any", 2: "axis int"})),
    "WindowData": ("window_data_param", _DATA),
}
"""Layer type -> the field with its settings, and their table."""
