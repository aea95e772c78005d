# SPDX-License-Identifier: Apache-2.0
"""Broken and hostile ONNX files: one clear error each, in little time, and nothing beside the file is read."""

from __future__ import annotations

import os
import pickle
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_models as made
import pickle_corpus as corpus
import pytest
from onnx import TensorProto, helper

import casemate as cm
from casemate.adapters import _onnx_model, _onnx_trial
from casemate.core import pickles
from casemate.core.errors import CasemateError, HostileArtefact, InvalidData, UnknownArtefact
from casemate.core.pickles import protobufs

X = np.random.default_rng(0).normal(size=(30, 4))
Y = np.digitize(X[:, 0], [-0.5, 0.5])
DATA = cm.Dataset(train=(X[:20], Y[:20]), holdout=(X[20:], Y[20:]))


def outside(location: str, **more: str) -> TensorProto:
    """A tensor whose values lie in another file."""
    tensor = TensorProto(name="w", data_type=made.FLOAT, dims=[4, 8], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **more}.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def with_tensor(tensor: TensorProto) -> Any:
    """A sound network whose first stored tensor is replaced."""
    model = made.network()
    model.graph.initializer[0].CopyFrom(tensor)
    return model


def in_constant(tensor: TensorProto) -> Any:
    return made.model(
        [helper.make_node("Constant", [], ["w"], value=tensor), helper.make_node("MatMul", ["x", "w"], ["y"])],
        {}, [("x", made.FLOAT, ["n", 4])], [("y", made.FLOAT, ["n", 8])],
    )  # fmt: skip


def in_branch(tensor: TensorProto) -> Any:
    branch = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["b"])], "branch", [],
                               [helper.make_tensor_value_info("b", made.FLOAT, None)], [tensor])  # fmt: skip
    return made.model(
        [helper.make_node("If", ["yes"], ["y"], then_branch=branch, else_branch=branch)],
        {"yes": np.array([True])}, [("x", made.FLOAT, ["n", 4])], [("y", made.FLOAT, ["n", 8])],
    )  # fmt: skip


def in_function(tensor: TensorProto) -> Any:
    body = [
        helper.make_node("Constant", [], ["w"], value=tensor),
        helper.make_node("MatMul", ["a", "w"], ["b"]),
    ]
    sets = [helper.make_opsetid("", 17)]
    model = made.model([helper.make_node("Mine", ["x"], ["y"], domain="mine")], {}, [("x", made.FLOAT, ["n", 4])],
                       [("y", made.FLOAT, ["n", 8])], others={"mine": 1})  # fmt: skip
    model.functions.append(helper.make_function("mine", "Mine", ["a"], ["b"], body, sets))
    return model


@pytest.mark.parametrize("place", [with_tensor, in_constant, in_branch, in_function])
@pytest.mark.parametrize(
    "path",
    ["../../etc/passwd", "/etc/passwd", "a/../../b", r"..\x", r"C:\x", "C:x", "//host/x", "https://a/b", "~/x", "a\0b"],
)  # fmt: skip
def test_a_path_out_of_the_folder_is_hostile(
    tmp_path: Path, path: str, place: Callable[[TensorProto], Any]
) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(place(outside(path)).SerializeToString())
    scan = pickles.scan(file)
    assert scan.verdict == "hostile" and "external data" in scan.summary and "outside" in scan.summary
    with pytest.raises(HostileArtefact, match=r"external data .* nothing was loaded"):
        cm.load(file)


def test_weights_beside_the_model_are_not_followed(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    (tmp_path / "weights.bin").write_bytes(b"\0" * 128)
    file.write_bytes(with_tensor(outside("weights.bin", offset="0", length="128")).SerializeToString())
    with pytest.raises(UnknownArtefact, match=r"lies in another file.*save the model as one file"):
        cm.load(file)


def test_external_data_without_the_flag_is_met_too() -> None:
    tensor = outside("../x")
    tensor.ClearField("data_location")
    assert pickles.scan(with_tensor(tensor).SerializeToString()).verdict == "hostile"


def declared(dims: list[int], raw: bytes = b"", dtype: int = made.FLOAT) -> TensorProto:
    return TensorProto(name="w", data_type=dtype, dims=dims, raw_data=raw)


@pytest.mark.parametrize(
    ("tensor", "told"),
    [
        (declared([2**40, 2]), "1099511627776.*another length"),
        (declared([2**62] * 40), "4611686018427387904"),
        (declared([4, 8], b"\0" * 124), "32 elements"),
        (declared([4, 8], b"\0" * 132), "another length"),
        (declared([-4, -8], b"\0" * 128), "dimensions"),
        (declared([0] * 65), "more than 64 dimensions"),
        (declared([4, 8], b"\0" * 128, dtype=99), "data type 99"),
        (declared([4, 8], b"\0" * 128, dtype=0), "data type 0"),
        (TensorProto(name="w", data_type=made.FLOAT, dims=[4, 8], float_data=[1.0] * 31), "another length"),
        (TensorProto(name="w", data_type=made.INT64, dims=[4], int64_data=[1, 2**40, -1]), "another length"),
        (TensorProto(name="w", data_type=made.DOUBLE, dims=[2], double_data=[1.0]), "another length"),
        (TensorProto(name="w", data_type=made.STRING, dims=[2**40], string_data=[b"a"]), "another length"),
        (TensorProto(name="w", data_type=TensorProto.INT4, dims=[5], raw_data=b"\0" * 2), "another length"),
    ],
)
def test_a_tensor_that_is_not_what_it_declares(tensor: TensorProto, told: str) -> None:
    for place in (with_tensor, in_constant):
        with pytest.raises(InvalidData, match=told) as caught:
            cm.wrap(place(tensor).SerializeToString())
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "tensor",
    [
        declared([4, 8], b"\0" * 128),
        declared([0, 8]),
        TensorProto(name="w", data_type=made.FLOAT, dims=[2, 2], float_data=[1.0] * 4),
        TensorProto(name="w", data_type=made.INT64, dims=[3], int64_data=[1, 2**40, -1]),
        TensorProto(name="w", data_type=TensorProto.INT8, dims=[3], int32_data=[1, 127, -1]),
        TensorProto(name="w", data_type=TensorProto.UINT64, dims=[1], uint64_data=[2**63]),
        TensorProto(name="w", data_type=made.DOUBLE, dims=[2], double_data=[1.0, 2.0]),
        TensorProto(name="w", data_type=TensorProto.COMPLEX64, dims=[1], float_data=[1.0, 2.0]),
        TensorProto(name="w", data_type=made.STRING, dims=[2], string_data=[b"a", b"b"]),
        TensorProto(name="w", data_type=TensorProto.INT4, dims=[5], raw_data=b"\0" * 3),
        TensorProto(name="w", data_type=TensorProto.BFLOAT16, dims=[5], raw_data=b"\0" * 10),
        helper.make_tensor("w", TensorProto.FLOAT16, [2], [1.0, 2.0]),
        helper.make_tensor("w", TensorProto.UINT4, [3], [1, 2, 3]),
        helper.make_tensor("w", TensorProto.BOOL, [2], [True, False]),
    ],
)
def test_a_sound_tensor_of_any_form_is_clean(tensor: TensorProto) -> None:
    assert pickles.scan(with_tensor(tensor).SerializeToString()).verdict == "clean"


def test_operators_of_libraries_that_are_not_there() -> None:
    ports: Any = [("x", made.FLOAT, ["n", 4])], [("y", made.FLOAT, ["n", 4])]
    custom = made.model(
        [helper.make_node("Steal", ["x"], ["y"], domain="com.evil")], {}, *ports, others={"com.evil": 1}
    )
    scan = pickles.scan(custom.SerializeToString(), name="m.onnx")
    assert scan.verdict == "unknown" and "operator com.evil.Steal" in scan.summary
    with pytest.raises(UnknownArtefact, match=r"com\.evil\.Steal.*needs a library"):
        cm.wrap(custom)
    python = made.model([helper.make_node("PythonOp", ["x"], ["y"], domain="com.microsoft")], {}, *ports,
                        others={"com.microsoft": 1})  # fmt: skip
    assert pickles.scan(python.SerializeToString()).verdict == "hostile"
    shipped = made.model([helper.make_node("Gelu", ["x"], ["y"], domain="com.microsoft")], {}, *ports,
                         others={"com.microsoft": 1})  # fmt: skip
    assert pickles.scan(shipped.SerializeToString()).verdict == "clean"
    own = in_function(helper.make_tensor("w", made.FLOAT, [4, 8], [0.0] * 32))
    assert pickles.scan(own.SerializeToString()).verdict == "clean"  # the file brings what it means


@pytest.mark.parametrize(
    ("nodes", "stored"),
    [
        ([("ConstantOfShape", ["s"], ["big"])], {"s": np.array([2**20, 2**20])}),
        ([("Expand", ["x", "s"], ["big"])], {"s": np.array([2**15, 2**15, 1, 4])}),
        ([("Tile", ["x", "s"], ["big"])], {"s": np.array([1, 2**40])}),
        ([("Resize", ["x", "", "s"], ["big"])], {"s": np.array([1.0, 1e12], np.float32)}),
        ([("Upsample", ["x", "s"], ["big"])], {"s": np.array([1.0, 1e12], np.float32)}),
        ([("Pad", ["x", "s"], ["big"])], {"s": np.array([0, 2**40, 0, 0])}),
    ],
)
def test_sizes_out_of_nothing_are_refused_before_anything_runs(nodes: Any, stored: Any) -> None:
    built = [helper.make_node(*node) for node in nodes] + [helper.make_node("ReduceSum", ["big"], ["y"])]
    model = made.model(
        built,
        stored,
        [("x", made.FLOAT, ["n", 4])],
        [("y", made.FLOAT, None)],
        opset=9 if nodes[0][0] == "Upsample" else 17,
    )
    with pytest.raises((HostileArtefact, InvalidData), match=r"would fill the memory"):
        cm.wrap(model)


def test_a_graph_in_a_circle_and_a_tensor_from_nowhere() -> None:
    ports: Any = [("x", made.FLOAT, ["n", 4])], [("y", made.FLOAT, ["n", 4])]
    circle = [
        helper.make_node("Add", ["x", "b"], ["a"]),
        helper.make_node("Add", ["x", "a"], ["b"]),
        helper.make_node("Add", ["a", "b"], ["y"]),
    ]
    nowhere = [helper.make_node("Add", ["x", "ghost"], ["y"])]
    twice = [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Tanh", ["x"], ["y"])]
    for nodes in (circle, nowhere, twice):
        with pytest.raises(
            InvalidData, match=r"reading of the ONNX model failed: .*export it again"
        ) as caught:
            cm.wrap(made.model(nodes, {}, *ports))
        assert "\n" not in str(caught.value)


def loop(times: int) -> Any:
    """The network, its logits squared down in a loop of so many rounds."""
    info = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Tanh", ["state"], ["next"])], "body",
        [info("i", made.INT64, []), info("go", TensorProto.BOOL, []), info("state", made.FLOAT, None)],
        [info("on", TensorProto.BOOL, []), info("next", made.FLOAT, None)],
    )  # fmt: skip
    w = made.weights(0, (4, 3))[0]
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["z"]),
        helper.make_node("Loop", ["n", "yes", "z"], ["y"], body=body),
    ]
    return made.model(nodes, {"w": w, "n": np.array(times), "yes": np.array(True)}, [("x", made.FLOAT, ["n", 4])],
                      [("y", made.FLOAT, ["n", 3])])  # fmt: skip


def test_a_loop_is_a_black_box_and_says_so() -> None:
    bound, data = cm.wrap(loop(3)).bind(DATA)
    assert bound.has(cm.Capability.SCORES) and not bound.has(cm.Capability.MODULE)
    assert any(
        "operator Loop (node 'y'), which is not converted to torch" in caveat for caveat in bound.caveats
    )
    z = X[20:].astype(np.float32) @ made.weights(0, (4, 3))[0]
    np.testing.assert_allclose(bound.logits(data.holdout.x), np.tanh(np.tanh(np.tanh(z))), atol=1e-5)


def test_a_loop_without_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_onnx_model, "MAX_SECONDS", 0.3)
    start = time.process_time()
    with pytest.raises(InvalidData, match="the ONNX model failed"):
        cm.wrap(loop(3_000_000)).bind(DATA)
    assert time.process_time() - start < 5


def test_a_file_that_is_cut_off_anywhere(tmp_path: Path) -> None:
    raw, file = made.network().SerializeToString(), tmp_path / "model.onnx"
    refused = 0
    for end in range(0, len(raw), 7):
        file.write_bytes(raw[:end])
        with pytest.raises((InvalidData, HostileArtefact)) as caught:
            cm.load(file)
        assert "\n" not in str(caught.value)
        refused += 1
    assert refused > 50


def test_what_is_no_onnx_file(tmp_path: Path) -> None:
    file, marker = tmp_path / "model.onnx", tmp_path / "ran"
    file.write_bytes(corpus.call("os", "mkdir", corpus.text(str(marker))))
    with pytest.raises(HostileArtefact, match=r"os\.mkdir"):
        cm.load(file)
    assert not marker.exists()
    for raw in (
        b"",
        b"\x08",
        b"ORTM" + b"\0" * 40,
        b"\x08\x08\x3a\x00",
        b"onnx",
        np.random.default_rng(0).bytes(200),
    ):
        file.write_bytes(raw)
        with pytest.raises((InvalidData, HostileArtefact)) as caught:
            cm.load(file)
        assert "\n" not in str(caught.value)
    for raw in (pickle.dumps([1]), b"\x08\x01", b"{}"):
        with pytest.raises((InvalidData, HostileArtefact)):
            cm.wrap(raw)


def test_a_file_beyond_two_gibibytes_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(made.network().SerializeToString())
    os.truncate(file, (2 << 30) + 1)  # a hole, not bytes
    start = time.process_time()
    with pytest.raises(InvalidData, match="at most 2048 MiB are read"):
        cm.load(file)
    assert time.process_time() - start < 2


def length(n: int) -> bytes:
    out = bytearray()
    while n > 127:
        out.append(n & 127 | 128)
        n >>= 7
    return bytes([*out, n])


def field(number: int, body: bytes) -> bytes:
    return length(number << 3 | 2) + length(len(body)) + body


def test_a_flood_of_empty_messages_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protobufs, "_MAX_FIELDS", 20_000)
    raw = b"\x08\x08" + field(7, b"\x0a\x00" * 30_000)
    with pytest.raises(HostileArtefact, match=r"resource bomb.*more than 20,000 fields"):
        cm.wrap(raw)


def test_graphs_inside_graphs_without_end_are_refused() -> None:
    graph = b""
    for _ in range(60):
        graph = field(1, field(5, field(6, graph)))  # node, attribute, graph
    with pytest.raises(HostileArtefact, match=r"resource bomb.*nested deeper"):
        cm.wrap(b"\x08\x08" + field(7, graph))


def test_two_graphs_that_a_parser_would_merge_are_refused() -> None:
    raw = made.network().SerializeToString()
    with pytest.raises(InvalidData, match="a graph where there may be one only"):
        cm.wrap(raw + field(7, b""))


def test_long_lists_of_numbers_are_walked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A forest of ai.onnx.ml holds each number in a field of its own: many of them are no flood."""
    monkeypatch.setattr(protobufs, "_MAX_FIELDS", 1000)
    node = helper.make_node("TreeEnsembleClassifier", ["x"], ["l", "y"], domain="ai.onnx.ml")
    node.attribute.append(helper.make_attribute("nodes_featureids", [i % 300 - 5 for i in range(50_000)]))
    node.attribute.append(helper.make_attribute("nodes_values", [0.5] * 50_000))
    ports: Any = [("x", made.FLOAT, ["n", 4])], [("y", made.FLOAT, ["n", 3])]
    model = made.model([node], {}, *ports, others={"ai.onnx.ml": 3})
    assert pickles.scan(model.SerializeToString()).verdict == "clean"


def product() -> Any:
    """A size that no constant holds: 2 ** 20 times 2 ** 20 floats, multiplied as the graph runs."""
    nodes = [
        helper.make_node("Shape", ["x"], ["n"]),
        helper.make_node("Mul", ["n", "s"], ["m"]),
        helper.make_node("ConstantOfShape", ["m"], ["big"]),
        helper.make_node("ReduceMax", ["big"], ["top"]),
        helper.make_node("Add", ["x", "top"], ["y"]),
    ]
    ports: Any = [("x", made.FLOAT, ["n", 4])], [("y", made.FLOAT, ["n", 4])]
    return made.model(nodes, {"s": np.array([2**20, 2**18])}, *ports)


def window() -> Any:
    """A pooling window wider than its image: onnxruntime 1.32 aborts the process over what is cut out of nothing."""
    nodes = [
        helper.make_node("Reshape", ["x", "s"], ["i"]),
        helper.make_node("MaxPool", ["i"], ["m"], kernel_shape=[127, 2]),
        helper.make_node("Flatten", ["m"], ["f"]),
        helper.make_node("Slice", ["f", "a", "b", "c"], ["y"]),
    ]
    stored = {"s": np.array([-1, 1, 2, 2]), "a": np.array([0]), "b": np.array([3]), "c": np.array([1])}
    return made.model(nodes, stored, [("x", made.FLOAT, ["n", 4])], [("y", made.FLOAT, ["n", 3])])


@pytest.mark.timeout(60)
@pytest.mark.parametrize("build", [product, window])
def test_what_would_take_the_process_with_it_is_tried_in_another(
    tmp_path: Path, build: Callable[[], Any]
) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(build().SerializeToString())
    with pytest.raises((HostileArtefact, InvalidData), match=r"nothing was loaded|MaxPool|Slice") as caught:
        cm.load(
            file
        )  # another version of onnxruntime may refuse the window by itself: then that is the clear error
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("program", "told"),
    [
        ("import os; os.kill(os.getpid(), 6)", "SIGABRT inside onnxruntime"),
        ("import sys; sys.exit(7)", "more than 4 GiB of memory"),
        ("import time; time.sleep(60)", "took more than"),
    ],
)
def test_how_the_trial_ends_is_told(monkeypatch: pytest.MonkeyPatch, program: str, told: str) -> None:
    monkeypatch.setattr(_onnx_trial, "_PROGRAM", program)
    if "sleep" in program:
        monkeypatch.setattr(_onnx_trial, "MAX_SECONDS", 0.3)
    with pytest.raises(HostileArtefact, match=told):
        _onnx_trial.tried(b"", "m.onnx")


def test_bytes_changed_at_random_give_an_answer_or_one_clear_error() -> None:
    rng, base = random.Random(7), made.network().SerializeToString()
    errors = 0
    for _ in range(60):
        raw = bytearray(base)
        for _ in range(rng.choice([1, 2, 6])):
            raw[rng.randrange(len(raw))] = rng.choice([0, 1, 127, 128, 255, rng.randrange(256)])
        try:
            bound, data = cm.wrap(bytes(raw)).bind(DATA)
            assert bound.labels(data.holdout.x).shape == (10,)
        except CasemateError as error:
            errors += 1
            assert "\n" not in str(error)
    assert errors > 20
