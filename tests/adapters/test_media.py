"""What `log()` takes beside numbers and texts: the official client's names, what becomes of the values."""

from __future__ import annotations

import inspect
import io
import json
import re
import subprocess
import sys
import wave
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy
import pytest

import pluto_dist as pluto
from pluto_dist.client.media.base import split_name
from pluto_dist.client.record import encode
from pluto_dist.errors import InvalidRecordError
from tests.official import OFFICIAL_PYTHON, needs_official_client

Pillow = pytest.importorskip("PIL.Image")
BLOB = "0123456789abcdef" * 2
OFFICIAL = {
    "File": ["path", "name"],
    "Artifact": ["data", "caption", "metadata"],
    "Text": ["data", "caption"],
    "Image": ["data", "caption", "boxes", "masks", "annotations"],
    "Audio": ["data", "rate", "caption"],
    "Video": ["data", "rate", "caption", "format"],
    "Histogram": ["data", "bins"],
    "Table": ["data"],
}


@pytest.mark.parametrize("name", OFFICIAL)
def test_the_arguments_are_the_official_ones_in_their_order(name: str) -> None:
    found = inspect.signature(getattr(pluto, name)).parameters.values()
    assert [each.name for each in found if each.kind is each.POSITIONAL_OR_KEYWORD] == OFFICIAL[name]


@needs_official_client
def test_the_official_client_agrees_on_the_order_of_arguments() -> None:
    probe = (
        "import inspect, json, pluto\n"
        f"names = {list(OFFICIAL)}\n"
        "seen = {n: [p.name for p in inspect.signature(getattr(pluto, n)).parameters.values() "
        "if p.kind is not p.VAR_KEYWORD] for n in names}\n"
        "print(json.dumps(seen))"
    )
    done = subprocess.run([OFFICIAL_PYTHON, "-c", probe], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == OFFICIAL


def decoded(image: pluto.Image) -> numpy.ndarray[Any, Any]:
    assert isinstance(image.source, bytes)
    return numpy.asarray(Pillow.open(io.BytesIO(image.source)))


# --- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/a/model.pt", ("model", ".pt")),
        ("/a/data.tar.gz", ("data", ".tar.gz")),
        ("/a/.bashrc", (".bashrc", "")),
        ("/a/LICENSE", ("LICENSE", "")),
        ("/a/v1.2 final", ("v1.2 final", "")),
        ("/a/x.tar", ("x", ".tar")),
        (f"/a/x.{'y' * 40}", (f"x.{'y' * 40}", "")),
    ],
)
def test_stem_and_extension_of_a_file(path: str, expected: tuple[str, str]) -> None:
    assert split_name(path) == expected


@pytest.mark.parametrize(
    ("media", "name", "kind"),
    [
        (pluto.File("/a/model.pt"), "model-7-0123456789ab.pt", "pt"),
        (pluto.File("/a/model.pt", name="best"), "best-7-0123456789ab.pt", "pt"),
        (pluto.File("/a/model.pt", name="best.pt"), "best-7-0123456789ab.pt", "pt"),
        (pluto.Artifact(b"", caption="../../etc/x y"), "etc-x-y-7-0123456789ab", "bin"),
        (pluto.Artifact(b""), "artifact-7-0123456789ab", "bin"),
        (pluto.Text("hello", caption="größe"), "größe-7-0123456789ab.txt", "txt"),
        (pluto.Text("x", caption="\0\ud800.."), "text-7-0123456789ab.txt", "txt"),
        (pluto.Video(b"", format="gif"), "video-7-0123456789ab.gif", "gif"),
        (pluto.Video(b"", format="exe"), "video-7-0123456789ab.mp4", "mp4"),
    ],
)
def test_each_file_has_a_name_of_its_own_that_is_safe_everywhere(media: Any, name: str, kind: str) -> None:
    """The server keeps one object for each log name and file name."""
    assert (media.file_name(7, BLOB), media.file_type) == (name, kind)


def test_a_long_caption_makes_a_name_that_filesystems_take() -> None:
    name = pluto.Text("x", caption="ü" * 500).file_name(2**64 - 1, BLOB)
    assert len(name.encode()) < 160


def test_a_path_means_the_file_of_now_although_the_folder_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = pluto.File("model.pt")
    monkeypatch.chdir("/")
    assert file.source == str(tmp_path / "model.pt")


@pytest.mark.parametrize("path", [7, None, "", b"x", "a\0b"])
def test_what_is_no_path_says_so(path: Any) -> None:
    assert re.search(r"File was given .*; pass the path of a file", pluto.File(path).problem)


def test_an_artifact_may_get_its_file_later() -> None:
    artifact = pluto.Artifact(caption="c", metadata={"n": numpy.float32(1.5)})
    artifact.add_file("/a/model.pt", name="best")
    assert artifact.source == "/a/model.pt"
    assert artifact.file_name(1, BLOB) == "best-1-0123456789ab.pt"
    assert json.loads(artifact.annotations or "") == {"n": 1.5}


def test_a_text_is_a_file_only_if_there_is_one(tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("x")
    assert pluto.Text(str(tmp_path / "notes.md")).file_type == "md"
    assert pluto.Text("a" * 5000).source == b"a" * 5000
    assert pluto.Text({"a": 1}).source == b"{'a': 1}"
    assert re.search("which is no file", pluto.Text(tmp_path / "missing").problem)


# --- images ---------------------------------------------------------------------------------------

GRADIENT = numpy.arange(15, dtype="uint8").reshape(3, 5)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (GRADIENT, GRADIENT),
        (GRADIENT[:, :, None], GRADIENT),
        (numpy.stack([GRADIENT] * 3), numpy.stack([GRADIENT] * 3, axis=2)),
        (numpy.stack([GRADIENT] * 4, axis=2), numpy.stack([GRADIENT] * 4, axis=2)),
        (GRADIENT / 255, GRADIENT),
        (GRADIENT > 5, (GRADIENT > 5) * 255),
        (GRADIENT.astype("int64") * 1000, numpy.clip(GRADIENT.astype("int64") * 1000, 0, 255)),
        (numpy.array([[-1.0, 0.0, 1.0]]), [[0, 127, 255]]),
        (numpy.array([[numpy.nan, 1.0]]), [[0, 255]]),
        (numpy.zeros((2, 2)), numpy.zeros((2, 2))),
    ],
)
def test_an_array_becomes_the_picture_that_is_meant(given: Any, expected: Any) -> None:
    assert decoded(pluto.Image(given)).tolist() == numpy.asarray(expected).tolist()


def test_a_tensor_becomes_a_picture() -> None:
    torch = pytest.importorskip("torch")
    for width in (3, 4, 5):
        given = torch.zeros(3, 7, width, dtype=torch.bfloat16, requires_grad=True)
        assert decoded(pluto.Image(given)).shape == (7, width, 3)


def test_a_pillow_image_and_encoded_bytes_and_a_figure() -> None:
    picture = Pillow.fromarray(GRADIENT)
    assert decoded(pluto.Image(picture)).tolist() == GRADIENT.tolist()
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG")
    jpeg = pluto.Image(buffer.getvalue())
    assert (jpeg.source, jpeg.file_type) == (buffer.getvalue(), "jpg")
    figure = SimpleNamespace(savefig=lambda file, **more: file.write(more["format"].encode()))
    assert pluto.Image(figure).source == b"png"
    assert pluto.Image(SimpleNamespace(figure=figure)).source == b"png"


def test_what_an_array_shows_later_does_not_matter() -> None:
    array = GRADIENT.copy()
    image = pluto.Image(array)
    array[:] = 0
    assert decoded(image).tolist() == GRADIENT.tolist()


@pytest.mark.parametrize(
    ("given", "advice"),
    [
        (numpy.zeros((2, 3, 4, 3)), "Log a batch as a list of images"),
        (numpy.zeros((5, 5, 7)), r"shape \(5, 5, 7\)"),
        (numpy.zeros((0, 4)), "shape"),
        (numpy.array([["a"]]), "it needs numbers"),
        (object(), "no array and no path or bytes"),
    ],
)
def test_what_is_no_image_says_what_it_needs(given: Any, advice: str) -> None:
    assert re.search(advice, pluto.Image(given).problem)


def test_code_of_others_that_fails_is_named() -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("the figure is closed")

    assert re.search("RuntimeError: the figure is closed", pluto.Image(SimpleNamespace(savefig=fail)).problem)


def test_without_pillow_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    assert re.search(r"needs Pillow.*pluto-dist\[media\].*path or the bytes", pluto.Image(GRADIENT).problem)
    assert pluto.Image(b"\x89PNG").source == b"\x89PNG"


def test_boxes_become_annotations_in_pixels() -> None:
    box = {"position": {"minX": 1}, "class_id": 2}
    image = pluto.Image(b"", boxes={"pred": {"box_data": [box]}}, annotations='{"x": 1}')
    assert json.loads(image.annotations or "") == {
        "x": 1,
        "boxes": {"pred": {"box_data": [{"domain": "pixel", **box}]}},
    }
    assert pluto.Image(b"", annotations="as given").annotations == "as given"
    assert re.search("box_data", pluto.Image(b"", boxes={"pred": {}}).problem)
    assert re.search("masks", pluto.Image(b"", masks={"m": {"path": "x"}}).problem)


# --- recordings -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("samples", "channels", "expected"),
    [
        (numpy.array([0.0, 1.0, -2.0, numpy.nan]), 1, [0, 32767, -32767, 0]),
        (numpy.array([[1, 2], [3, 4]], dtype="int16"), 2, [1, 2, 3, 4]),
    ],
)
def test_samples_become_a_wav_file(samples: Any, channels: int, expected: list[int]) -> None:
    audio = pluto.Audio(samples, 8000)
    assert isinstance(audio.source, bytes)
    with wave.open(io.BytesIO(audio.source)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (8000, channels, 2)
        assert numpy.frombuffer(file.readframes(99), "<i2").tolist() == expected
    assert pluto.Audio(b"x", sample_rate=1).file_type == "wav"


@pytest.mark.parametrize(
    ("samples", "rate", "advice"),
    [(numpy.zeros((1, 2, 3)), 8000, "shape"), (numpy.zeros(3), 0, "rate"), (numpy.zeros(3), 1.5, "rate")],
)
def test_what_is_no_sound_says_what_it_needs(samples: Any, rate: Any, advice: str) -> None:
    assert re.search(advice, pluto.Audio(samples, rate).problem)


def test_frames_are_sent_to_an_encoder() -> None:
    assert re.search(r"imageio.*pass its path", pluto.Video(numpy.zeros((2, 3, 4, 4))).problem)  # type: ignore[arg-type] # the test


# --- histograms and tables ------------------------------------------------------------------------


def test_numbers_are_counted() -> None:
    drawn = json.loads(pluto.Histogram(numpy.array([[0.0, 1.0], [1.0, numpy.inf]]), bins=2).payload)
    assert drawn == {
        "freq": [1, 2],
        "bins": {"min": 0.0, "max": 1.0, "num": 2},
        "shape": "uniform",
        "type": "Histogram",
        "maxFreq": 2,
    }
    assert json.loads(pluto.Histogram([5]).payload)["bins"]["num"] == 64
    given = pluto.Histogram(numpy.histogram([1, 2, 3], bins=3), bins=None)
    assert json.loads(given.payload)["freq"] == [1, 1, 1]


@pytest.mark.parametrize(
    ("data", "bins"),
    [
        ([], 64), ([float("nan")], 64), (["a"], 64), ([1], 0), ([1], True), (([1, 2], [0, 1]), None),
        (([1, 2], [0, 1, 5]), None), (7, None), (([1, float("nan")], [0, 1, 2]), None),
    ],
)  # fmt: skip
def test_what_cannot_be_counted_says_so(data: Any, bins: Any) -> None:
    assert re.search("Histogram was given", pluto.Histogram(data, bins).problem)


class Frame:
    """What of a DataFrame is looked at."""

    columns = ("a",)

    def to_dict(self, orient: str) -> dict[str, Any]:
        assert orient == "split"
        return {"data": [[1], [2]], "columns": ["a"], "index": [10, 11]}


def test_rows_become_a_table() -> None:
    table = pluto.Table([[1, "a", None], [float("inf"), numpy.float32(2), object]], columns=["n", "s", "x"])
    drawn = json.loads(table.payload)
    assert drawn["table"] == [[1, "a", None], ["inf", 2.0, str(object)]]
    assert drawn["col"] == [
        {"name": "n", "dtype": "int"}, {"name": "s", "dtype": "str"}, {"name": "x", "dtype": "NoneType"},
    ]  # fmt: skip
    framed = json.loads(pluto.Table(dataframe=Frame()).payload)
    assert framed["table"] == [[1], [2]]
    assert [each["name"] for each in framed["row"]] == ["10", "11"]
    assert json.loads(pluto.Table(numpy.eye(2)).payload) == {"table": [[1.0, 0.0], [0.0, 1.0]]}
    assert json.loads(pluto.Table(columns=["a"], data=[]).payload)["col"][0]["name"] == "a"


@pytest.mark.parametrize(
    ("data", "more", "advice"),
    [
        (None, {}, "pass a list of rows"),
        (None, {"columns": ["a"], "rows": [[1], [2]]}, r"pass Table\(cells\)"),
        ([1, 2], {}, "pass a list of rows"),
        ([[1], [1, 2]], {}, "different length"),
        ([[1]], {"columns": ["a", "b"]}, "2 names of columns for 1 columns"),
        ([["x" * (2 << 20)]], {}, "Log fewer rows, or the whole as a File"),
    ],
)
def test_what_is_no_table_says_so(data: Any, more: dict[str, Any], advice: str) -> None:
    assert re.search(advice, pluto.Table(data, **more).problem)


# --- in a record ----------------------------------------------------------------------------------


def test_a_record_takes_all_of_them_under_their_types() -> None:
    encoded = encode(
        {
            "loss": 1.0,
            "a": {"file": pluto.File("/x")},
            "list": [pluto.Text("1"), pluto.Text("2")],
            "h": pluto.Histogram([1.0]),
            "t": pluto.Table([[1]]),
        },
        3,
        5,
        set(),
    )
    assert encoded.new == {"loss": "METRIC", "a/file": "FILE", "list": "TEXT", "h": "HISTOGRAM", "t": "TABLE"}
    assert [(file.name, file.sample_index) for file in encoded.files] == [
        ("a/file", 0),
        ("list", 0),
        ("list", 1),
    ]
    rows = [json.loads(line) for line in encoded.data]
    assert {row["logName"]: row["dataType"] for row in rows} == {"h": "histogram", "t": "table"}
    assert encoded.rejections == ()


def failing(*_: object, **__: object) -> None:
    raise RuntimeError("device-side assert")


NOT_LOGGABLE: dict[str, Callable[[], object]] = {
    "a histogram of a diverged layer": lambda: pluto.Histogram(numpy.full(10, numpy.nan)),
    "one that numpy itself cannot count": lambda: pluto.Histogram([-1.7e308, 1.7e308]),
    "ragged rows": lambda: pluto.Table([[1, 2], [3]]),
    "a frame that fails": lambda: pluto.Table(SimpleNamespace(to_dict=failing, columns=("a",))),
    "a wrong shape": lambda: pluto.Image(numpy.zeros((2, 3, 4, 5))),
    "no path": lambda: pluto.File(None),  # type: ignore[arg-type] # the test
}


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")  # numpy's
@pytest.mark.parametrize("make", NOT_LOGGABLE.values(), ids=NOT_LOGGABLE)
def test_a_value_that_cannot_be_encoded_is_left_out_and_stops_no_training(make: Callable[[], Any]) -> None:
    """G4: at the moment of divergence; its neighbours are logged, and `strict` raises in log()."""
    value = make()
    encoded = encode({"loss": 1.0, "bad": value, "ok": pluto.Text("x")}, 0, 0, set())
    assert [(each.name, each.advice) for each in encoded.rejections] == [("bad", value.problem)]
    assert encoded.new == {"loss": "METRIC", "ok": "TEXT"}
    assert encoded.metrics is not None
    with pytest.raises(InvalidRecordError, match="'bad'"):
        encode({"bad": value}, 0, 0, set(), strict=True)


def test_one_bad_picture_of_a_list_is_left_out() -> None:
    """G4: the others keep their places."""
    pictures = [pluto.Image(b"\x89PNG"), pluto.Image(numpy.zeros(3)), pluto.Image(b"\x89PNG")]
    encoded = encode({"samples": pictures}, 0, 0, set())
    assert [file.sample_index for file in encoded.files] == [0, 2]
    assert "shape (3,)" in encoded.rejections[0].advice
    assert "cannot be logged" in repr(pictures[1])


def test_a_call_that_is_wrong_by_itself_raises_at_once() -> None:
    """An argument that does not exist is a fault of the script, not of a value."""
    with pytest.raises(TypeError, match="colour"):
        pluto.Image(GRADIENT, colour="red")  # type: ignore[call-arg] # the test
    with pytest.raises(TypeError):
        pluto.Histogram()  # type: ignore[call-arg] # the test


@pytest.mark.parametrize("name", ["/a", "a/", "a//b", "../a", "a/./b", ".."])
def test_a_file_may_be_called_as_a_number_may(name: str) -> None:
    """The name stays; where it becomes part of a path, the path is escaped."""
    encoded = encode({name: pluto.Text("x")}, 0, 0, set())
    assert [file.name for file in encoded.files] == [name]
    assert encoded.rejections == encode({name: 1.0}, 0, 0, set()).rejections == ()


@pytest.mark.parametrize("value", [[], [pluto.Text("x"), 1], [pluto.Histogram([1])]])
def test_other_lists_are_left_out_with_advice(value: Any) -> None:
    assert "lists of files" in str(encode({"l": value}, 0, 0, set()).rejections[0])
