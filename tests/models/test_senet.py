"""SENet-50 against its prototxt's sizes, and through every format that its released weights come in."""

from __future__ import annotations

import pickle
from pathlib import Path

import keras
import numpy as np
import pytest

from emotiw_keras.conversion.convert import convert, probe_image, write_weights
from emotiw_keras.errors import ModelError
from emotiw_keras.formats.reference import run
from emotiw_keras.models import build, get_spec
from emotiw_keras.models.originals import original
from emotiw_keras.models.senet import FOREIGN_NAMES
from emotiw_keras.training.freezing import apply_rules, check_moved, digests, initialise_layers
from tests.formats import foreign_networks as foreign
from tests.formats.write_pytorch import tensor, write_zip

NARROW = 0.05
IDENTITIES = 23
# Side and channels of the maps, computed by hand from SE-ResNet-50.prototxt; 112 -> 56 is the pooling that rounds up.
MAPS = {"conv1_7x7_s2": (112, 64), "conv1_relu_7x7_s2": (112, 64), "pool1_3x3_s2": (56, 64)}
MAPS |= {"conv2_1_1x1_reduce": (56, 64), "conv2_1_3x3": (56, 64), "conv2_1_1x1_increase": (56, 256), "conv2_1": (56, 256)}
MAPS |= {"conv2_1_1x1_proj": (56, 256), "conv2_1_1x1_down": (1, 16), "conv2_1_1x1_up": (1, 256), "conv2_3_relu": (56, 256)}
MAPS |= {"conv3_1_1x1_reduce": (28, 128), "conv3_1_3x3": (28, 128), "conv3_1_1x1_proj": (28, 512), "conv3_4_relu": (28, 512)}
MAPS |= {"conv3_4_1x1_down": (1, 32), "conv4_1_1x1_reduce": (14, 256), "conv4_6_relu": (14, 1024), "conv4_6_1x1_down": (1, 64)}
MAPS |= {"conv5_1_1x1_reduce": (7, 512), "conv5_1_1x1_proj": (7, 2048), "conv5_3_relu": (7, 2048), "conv5_3_1x1_down": (1, 128)}


@pytest.fixture(scope="module")
def net() -> foreign.Network:
    """A narrow SENet-50 of 23 identities with random weights and statistics."""
    keras.utils.set_random_seed(1)
    return foreign.network("senet50", NARROW, classes=IDENTITIES)


@pytest.fixture(scope="module")
def caffe(net: foreign.Network, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, np.ndarray]]:
    """Its Caffe file, and what OpenCV computes of it."""
    files = foreign.write_caffe_files(tmp_path_factory.mktemp("caffe"), net)
    return files[0], foreign.run_caffe(net, *files, ["pool1_3x3_s2", "conv3_4_relu", "pool5_7x7_s1", net.scores])


def learnable_by_hand(classes: int) -> int:
    """Kernels, factors and offsets, gates and classifier, written out from the prototxt."""
    count, coming = 7 * 7 * 3 * 64 + 2 * 64, 64
    for blocks, channels in ((3, 64), (4, 128), (6, 256), (3, 512)):
        out = 4 * channels
        for number in range(blocks):
            kernels = coming * channels + 9 * channels**2 + channels * out + (coming * out if number == 0 else 0)
            normalised = 2 * (2 * channels + out + (out if number == 0 else 0))
            gate = 2 * out * (out // 16) + out // 16 + out
            count, coming = count + kernels + normalised + gate, out
    return count + (2048 + 1) * classes


def test_sizes_and_parameters_of_the_full_network() -> None:
    model = build("senet50", weights=None)
    found = {name: model.get_layer(name).output.shape for name in MAPS}
    assert found == {name: (None, side, side, channels) for name, (side, channels) in MAPS.items()}
    assert model.get_layer("pool5_7x7_s1").output.shape == (None, 2048)
    learnable = sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)
    # 28,088,024 is the number that others count with 1000 classes (Cadene, timm).
    assert learnable_by_hand(1000) == 28_088_024 and learnable == learnable_by_hand(8631)
    assert model.count_params() == get_spec("senet50").parameters == learnable + 53_120
    assert model.output_shape == (None, 8631)
    normalisations = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert len(normalisations) == 53 and {layer.epsilon for layer in normalisations} == {1e-5}


def test_original_has_the_layers_of_the_prototxt() -> None:
    nodes = original("senet50")
    kinds = [node.op for node in nodes]
    counts = {"conv": 85, "batch_norm": 53, "scale": 53, "axpy": 16, "sigmoid": 16, "global_mean": 16, "fc": 1}
    assert {kind: kinds.count(kind) for kind in counts} == counts
    assert [node.name for node in nodes if node.op == "conv" and node.attrs["stride"] == (2, 2)] == [
        "conv1_7x7_s2",
        *(f"conv{stage}_1_1x1_{part}" for stage in (3, 4, 5) for part in ("reduce", "proj")),
    ]
    assert {key for names in FOREIGN_NAMES for key in names} >= {key.rpartition(".")[0] for n in nodes for key in n.arrays}
    for names in FOREIGN_NAMES:
        assert len(set(names.values())) == len(names)


def scores_of(model: keras.Model) -> np.ndarray:
    return keras.ops.convert_to_numpy(model(probe_image(get_spec("senet50")), training=False)).reshape(-1)


def assert_same(found: np.ndarray, expected: np.ndarray) -> None:
    assert np.std(expected) > 0.01 * np.abs(expected).max() > 0
    assert np.abs(found - expected.reshape(-1)).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.slow
def test_a_caffemodel_computes_what_opencv_computes(net: foreign.Network, caffe: tuple, tmp_path: Path) -> None:
    path, expected = caffe
    model, conversion = convert("senet50", path, width=NARROW)
    taps = ("pool1_3x3_s2", "conv3_4_relu")
    outputs = keras.Model(model.inputs[0], [model.get_layer(layer).output for layer in taps])
    for layer, value in zip(taps, outputs(probe_image(get_spec("senet50"))), strict=True):
        assert_same(np.moveaxis(keras.ops.convert_to_numpy(value), -1, 1).reshape(-1), expected[layer])
    assert_same(scores_of(model), expected[net.scores])
    assert conversion.own_structure and conversion.channel_order == "bgr" and conversion.classes == IDENTITIES
    assert len(conversion.parity) == len(conversion.matches) + 1 == 87
    assert max(conversion.parity.values()) < 1e-4
    again = build("senet50", weights=write_weights(model, tmp_path / "s.weights.h5"), width=NARROW, classes=IDENTITIES)
    for old, new in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.slow
@pytest.mark.parametrize("newest", [False, True])
def test_a_dag_of_matconvnet_gives_the_same_network(net: foreign.Network, caffe: tuple, tmp_path: Path, newest: bool) -> None:
    path = foreign.write_dag_file(tmp_path / "net.mat", net, newest=newest, biased="conv3_1_3x3")
    model, conversion = convert("senet50", path, width=NARROW)
    assert conversion.foreign.format.startswith("MatConvNet DagNN") and conversion.channel_order == "rgb"
    assert_same(scores_of(model), caffe[1][net.scores])
    # Its sigma holds the epsilon: ours is taken off again.
    variance = model.get_layer("conv2_1_3x3_bn").moving_variance
    np.testing.assert_allclose(variance, net.arrays["conv2_1_3x3_bn.variance"], rtol=1e-3, atol=1e-7)


@pytest.mark.slow
def test_the_pickled_dictionary_gives_the_same_network(net: foreign.Network, caffe: tuple, tmp_path: Path) -> None:
    (tmp_path / "senet50_ft_weight.pkl").write_bytes(pickle.dumps(foreign.torch_state(net), 2))
    model, conversion = convert("senet50", tmp_path / "senet50_ft_weight.pkl", width=NARROW)
    assert conversion.matched_by == "name" and not conversion.own_structure and conversion.layout == "oihw"
    told = "\n".join(conversion.lines())
    assert "SENet-50 (SE-ResNet-50, VGGFace2) as its authors defined it" in told
    assert "conv3_2_1x1_down" in told and "give nothing but zeros for that image" in told, "few channels, all below zero"
    assert_same(scores_of(model), caffe[1][net.scores])


@pytest.mark.slow
def test_a_state_dict_gives_the_same_network(net: foreign.Network, caffe: tuple, tmp_path: Path) -> None:
    # As Oxford's own: Caffe's names with _, the classifier a convolution, steps counted.
    roles = {"mean": "running_mean", "variance": "running_var", "gamma": "weight", "beta": "bias"}
    state = {".".join((key.rpartition(".")[0], roles.get(key.rpartition(".")[2], key.rpartition(".")[2]))): array
             for key, array in net.arrays.items()}  # fmt: skip
    state["classifier.weight"] = state["classifier.weight"][:, :, None, None]
    state["conv2_1_3x3_bn.num_batches_tracked"] = np.array(7)
    write_zip(tmp_path / "senet50_ft_dag.pth", {key: tensor(array) for key, array in state.items()})
    model, _ = convert("senet50", tmp_path / "senet50_ft_dag.pth", width=NARROW)
    assert_same(scores_of(model), caffe[1][net.scores])


@pytest.mark.slow
@pytest.mark.parametrize("top", [True, False])
def test_keras_vggface_files_load_by_name(net: foreign.Network, caffe: tuple, tmp_path: Path, top: bool) -> None:
    path = foreign.write_keras_file(tmp_path / "rcmalli.h5", net, top=top)
    model, conversion = convert("senet50", path, width=NARROW)
    if top:
        assert_same(scores_of(model), caffe[1][net.scores])
        return
    assert conversion.classes is None and conversion.last == "features"
    assert "ignored classifier: not in the file; the trunk alone is converted" in conversion.lines()
    assert_same(scores_of(model), caffe[1]["pool5_7x7_s1"])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["caffemodel", "npz"])
def test_of_the_256_and_128_networks_the_trunk_is_converted(
    net: foreign.Network, caffe: tuple, tmp_path: Path, kind: str
) -> None:
    rng = np.random.default_rng(4)
    features = net.arrays["classifier.weight"].shape[1]
    behind = {"feat_extract.weight": rng.normal(0, 1, (13, features, 1, 1)).astype("float32")}
    behind |= {"classifier.weight": np.ones((5, 13), "float32"), "classifier.bias": np.ones(5, "float32")}
    if kind == "caffemodel":
        path = foreign.write_caffe_files(tmp_path, net, embedding=behind["feat_extract.weight"])[0]
    else:
        path = tmp_path / "senet50_128.npz"
        np.savez(path, **{**net.arrays, **behind})
    model, conversion = convert("senet50", path, width=NARROW)
    assert_same(scores_of(model), caffe[1]["pool5_7x7_s1"])
    ignored = [line for line in conversion.lines() if line.startswith("ignored")]
    assert ignored == [
        f"ignored {key}: behind the trunk, which alone is converted"
        for key in ("feat_extract.weight", "classifier.weight", "classifier.bias")
    ]
    # A network with a classifier of its own takes the trunk.
    small = build("senet50", weights=write_weights(model, tmp_path / "t.weights.h5"), width=NARROW, classes=7)
    np.testing.assert_array_equal(small.get_layer("conv5_3_3x3").kernel, model.get_layer("conv5_3_3x3").kernel)


def test_a_missing_or_surplus_array_is_named(net: foreign.Network, tmp_path: Path) -> None:
    state = foreign.torch_state(net)
    np.savez(tmp_path / "more.npz", **state, **{"layer5.0.conv1.weight": np.ones((2, 2, 1, 1), "float32")})
    with pytest.raises(ModelError, match="1 arrays have no place in it, the first is layer5.0.conv1.weight"):
        convert("senet50", tmp_path / "more.npz", width=NARROW)
    del state["layer3.2.bn2.running_var"]
    np.savez(tmp_path / "less.npz", **state)
    with pytest.raises(ModelError, match="no known naming fits its 330 arrays"):
        convert("senet50", tmp_path / "less.npz", width=NARROW)
    state["layer3.2.bn2.running_var"] = np.ones(3, "float32")
    np.savez(tmp_path / "other.npz", **state)
    with pytest.raises(ModelError, match="layer3.2.bn2.running_var has 3 values, expected 13|which does not fit 3 values"):
        convert("senet50", tmp_path / "other.npz", width=NARROW)


def test_another_epsilon_is_seen_by_the_gate(net: foreign.Network, caffe: tuple) -> None:
    """That of keras-vggface changes the scores by more than the gate allows; its pooling, a row short, hardly does."""
    image = {"data": foreign.image("senet50")}
    nodes = [foreign.changed(node, {"epsilon": 1e-4}) if node.op == "batch_norm" else node for node in net.nodes[:-1]]
    found, _ = run(nodes, net.arrays, image, "oihw")
    difference = np.abs(found["classifier"] - caffe[1][net.scores]).max() / np.abs(caffe[1][net.scores]).max()
    assert difference > 1e-3


def test_a_stage_trains_what_its_rules_say() -> None:
    model = build("senet50", weights=None, width=NARROW, classes=3, input_shape=(33, 33, 3), classifier_activation=None)
    generator = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.moving_variance.assign(generator.uniform(0.5, 2, layer.moving_variance.shape))
    rates = apply_rules(model, [("conv[1-4]*", 0.0), ("conv5*", 0.01), ("*", 1.0)], "stage one")
    assert (
        rates["classifier/kernel"] == 1.0 and rates["conv5_1_1x1_proj_bn/gamma"] == 0.01 and "conv4_6_3x3/kernel" not in rates
    )
    before = digests(model)
    x = generator.normal(0, 60, (4, 33, 33, 3)).astype("float32")
    model(x, training=True)
    # Statistics of frozen normalisations stay, those of trained ones move.
    after = digests(model)
    moved = {path.split("/")[0] for path in before if before[path] != after[path]}
    assert moved == {layer.name for layer in model.layers if layer.name.startswith("conv5") and layer.name.endswith("_bn")}
    assert "classifier/kernel" in check_moved(model, before, "stage one")[0]
    done = initialise_layers(model, ["conv5_3*"], 5, "stage two")
    assert done == [layer.name for layer in model.layers if layer.weights and layer.name.startswith("conv5_3")]
    again = model.get_layer("conv5_3_3x3_bn")
    assert [float(keras.ops.mean(value)) for value in again.weights] == [1.0, 0.0, 0.0, 1.0]
