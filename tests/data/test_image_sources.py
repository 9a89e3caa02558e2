"""Images from wherever they are kept."""

import gzip
import io
import struct
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from microtome.core.errors import CannotLoad, MicrotomeError
from microtome.data.image_sources import open_images
from microtome.data.image_sources.choosing import choose, encode
from microtome.data.image_sources.idx import read_idx
from microtome.data.image_sources.pixels import as_pixels, resize


def png(value, size=(8, 8), mode="RGB"):
    """The bytes of an image of one colour (8 wide and 8 high, unless said)."""
    buffer = io.BytesIO()
    Image.new(mode, size, value).save(buffer, "PNG")
    return buffer.getvalue()


def write(root, files):
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def zipped(path, files):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def svrt_files(problem, split="test", n=3, shade=0):
    return {
        f"results_problem_{problem}_20250101/{split}/sample_{label}_{i:04d}.png": png(
            (shade + 10 * label + i,) * 3
        )
        for label in (0, 1)
        for i in range(n)
    }


def shades(images):
    return images.pixels[:, 0, 0, 0].tolist()


# -- SVRT


def test_svrt_layout_in_sorted_order(tmp_path):
    files = svrt_files(1) | svrt_files(1, "train", 2, 100) | svrt_files(7, shade=50)
    write(tmp_path, dict(reversed(files.items())))
    images = open_images(str(tmp_path), problem=1)
    assert shades(images) == [0, 1, 2, 10, 11, 12]
    assert images.labels["same_different"].values.tolist() == [0, 0, 0, 1, 1, 1]
    assert images.labels["same_different"].names == ("0", "1")
    assert images.names[3] == "sample_1_0000.png"
    assert images.pixels.shape == (6, 3, 8, 8) and images.pixels.dtype == torch.uint8
    assert shades(open_images(f"svrt:{tmp_path}#7")) == [50, 51, 52, 60, 61, 62]
    assert shades(open_images(str(tmp_path), problem="1", split="train")) == [100, 101, 110, 111]
    own = open_images(str(tmp_path / "results_problem_1_20250101"))
    assert own.digest == images.digest
    assert open_images(f"{zipped(tmp_path / 'a.zip', files)}#1").digest == images.digest


def test_first_folder_of_a_problem_in_order_of_names(tmp_path, capsys):
    write(tmp_path, svrt_files(1))
    write(tmp_path, {name.replace("2025", "2024"): png((99,) * 3) for name in svrt_files(1)})
    assert set(shades(open_images(str(tmp_path), problem=1))) == {99}
    assert "2 folders of problem 1; taking results_problem_1_20240101" in capsys.readouterr().err


def test_unknown_problems_are_answered_with_those_there(tmp_path):
    write(tmp_path, svrt_files(1) | svrt_files(12) | svrt_files(7))
    with pytest.raises(CannotLoad, match=r"no problem 9; there are 1, 7, 12"):
        open_images(str(tmp_path), problem=9)
    with pytest.raises(CannotLoad, match=r"which problem\? there are 1, 7, 12"):
        open_images(str(tmp_path))
    with pytest.raises(CannotLoad, match="no val images; there are test"):
        open_images(str(tmp_path), problem=1, split="val")
    with pytest.raises(CannotLoad, match="the folder of problem 7, not 1"):
        open_images(str(tmp_path / "results_problem_7_20250101"), problem=1)
    with pytest.raises(CannotLoad, match="no folder results_problem_1_"):
        open_images(f"svrt:{write(tmp_path / 'else', {'a/b.png': png(0)})}", problem=1)


# -- folders


def folder_files(extra=""):
    return {
        f"{extra}{name}/{i}.png": png((shade + i,) * 3)
        for name, shade in (("zebra", 100), ("ant", 0))
        for i in (10, 9)
    }


def test_folder_with_one_folder_a_class(tmp_path):
    images = open_images(f"folder:{write(tmp_path, folder_files())}")
    assert images.labels["class"].names == ("ant", "zebra")
    assert images.names == ("ant/10.png", "ant/9.png", "zebra/10.png", "zebra/9.png")
    assert shades(images) == [10, 9, 110, 109]
    assert images.labels["class"].values.tolist() == [0, 0, 1, 1]


def test_splits_hidden_files_and_zip_archives(tmp_path):
    files = folder_files("Train/") | folder_files("validation/") | {".git/x/1.png": b"", "notes.txt": b"x"}
    write(tmp_path / "a", files)
    train = open_images(str(tmp_path / "a"), split="train")
    assert len(train) == 4 and train.labels["class"].names == ("ant", "zebra")
    assert open_images(str(tmp_path / "a"), split="val").digest == train.digest
    with pytest.raises(CannotLoad, match="no test images; there are train, val"):
        open_images(str(tmp_path / "a"))
    packed = zipped(tmp_path / "b.zip", files | {"__MACOSX/x/1.png": b""})
    assert open_images(str(packed), split="train").digest == train.digest


def test_folders_that_only_wrap_others_are_seen_through(tmp_path):
    expected = open_images(str(write(tmp_path / "plain", folder_files())))
    deep = {f"top/data/{name}": content for name, content in folder_files().items()}
    assert open_images(str(zipped(tmp_path / "a.zip", deep))).digest == expected.digest
    problems = {f"top/{name}": content for name, content in svrt_files(3).items()}
    assert len(open_images(f"{zipped(tmp_path / 'b.zip', problems)}#3")) == 6
    only_test = {f"test/{name}": content for name, content in folder_files().items()}
    assert open_images(str(write(tmp_path / "c", only_test))).digest == expected.digest
    with pytest.raises(CannotLoad, match="no train images; there are test"):
        open_images(str(tmp_path / "c"), split="train")


def test_linked_folders_are_followed_but_not_in_circles(tmp_path):
    write(tmp_path / "real", folder_files())
    (tmp_path / "set").mkdir()
    for name in ("ant", "zebra"):
        (tmp_path / "set" / name).symlink_to(tmp_path / "real" / name)
    (tmp_path / "real" / "ant" / "back").symlink_to(tmp_path / "set")
    assert len(open_images(str(tmp_path / "set"))) == 4


def test_table_of_labels(tmp_path):
    write(tmp_path, folder_files())
    (tmp_path / "labels.csv").write_text(
        "file,animal,parity\nzebra/9.png,z,1\nant/10.png,a,0\nant/9.png,a,1\n"
    )
    images = open_images(str(tmp_path))
    assert images.names == ("ant/10.png", "ant/9.png", "zebra/9.png")
    assert images.labels["animal"].values.tolist() == [0, 0, 1]
    assert images.labels["parity"].values.tolist() == [0, 1, 1]
    (tmp_path / "labels.csv").write_text("file,animal\nnone.png,z\n")
    with pytest.raises(CannotLoad, match=r"names none\.png, which is not there"):
        open_images(str(tmp_path))
    (tmp_path / "labels.csv").write_text("file,animal\nant/9.png\n")
    with pytest.raises(CannotLoad, match="other length"):
        open_images(str(tmp_path))


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({"readme.txt": b"x"}, "holds no images"),
        ({"only/1.png": png(0), "only/2.png": png(0)}, r"one class only \(only\)"),
        ({"1.png": png(0)}, "in no class's folder"),
        ({"a/1.png": png(0), "b/1.png": png(0, (9, 8))}, r"2 sizes \(8x8, 9x8\).*--image-size"),
        ({"a/1.png": png(0), "b/1.png": png(0)[:40]}, r"b/1\.png is not an image"),
        ({"a/1.png": png(0), "b/1.png": b"text"}, r"b/1\.png is not an image"),
    ],
)
def test_folders_that_cannot_be_compared_on_are_told(tmp_path, files, told):
    with pytest.raises(CannotLoad, match=told) as caught:
        open_images(f"folder:{write(tmp_path, files)}")
    assert "\n" not in str(caught.value)


def test_an_empty_folder_and_a_broken_zip_are_told(tmp_path):
    with pytest.raises(CannotLoad, match="holds no images"):
        open_images(str(tmp_path))
    (tmp_path / "a.zip").write_bytes(b"PK no")
    with pytest.raises(CannotLoad, match="truncated or not a zip file"):
        open_images(str(tmp_path / "a.zip"))


# -- sizes, channels, limits


def test_images_of_several_sizes_and_modes_become_one(tmp_path):
    files = {
        "a/1.png": png(77, (12, 16), "L"),
        "a/2.png": png((77, 77, 77, 255), (8, 8), "RGBA"),
        "a/3.png": png((0, 0, 0, 0), (8, 8), "RGBA"),  # all transparent: white
        "b/1.png": png(77, (3, 5), "P"),
        "b/2.png": png(1, (6, 6), "1"),
        "b/3.png": png(77 * 257, (6, 6), "I;16"),
    }
    files["b/1.png"] = png((77, 77, 77), (3, 5))
    images = open_images(str(write(tmp_path, files)), size=8)
    assert images.pixels.shape == (6, 3, 8, 8)
    assert shades(images) == [77, 77, 255, 77, 255, 77]
    grey = open_images(str(tmp_path), size=8, channels=1)
    assert grey.pixels.shape == (6, 1, 8, 8) and shades(grey) == [77, 77, 255, 77, 255, 77]


def test_resizing_averages_when_smaller():
    pixels = torch.zeros(1, 1, 4, 4, dtype=torch.uint8)
    pixels[0, 0, :, 2:] = 200
    small = resize(pixels, 1, None)
    assert small.dtype == torch.uint8 and small.flatten().tolist() == [100]
    colour = torch.tensor([255, 0, 0], dtype=torch.uint8).reshape(1, 3, 1, 1)
    assert resize(colour, None, 1).flatten().tolist() == [76]
    assert resize(colour[:, :1], None, 3).flatten().tolist() == [255] * 3


def test_a_limit_is_balanced_over_classes_and_keeps_order():
    labels = encode(list("aaaabbc"))
    assert choose(labels, None).tolist() == list(range(7))
    assert choose(labels, 3).tolist() == [0, 4, 6]
    assert choose(labels, 5).tolist() == [0, 1, 4, 5, 6]
    assert choose(labels, 6).tolist() == [0, 1, 2, 4, 5, 6]
    assert choose(labels, 70).tolist() == list(range(7))


def test_labels_that_are_numbers_are_in_order_of_numbers():
    labels = encode([10, 2, 10.0, 1])
    assert labels.names == ("1", "2", "10") and labels.values.tolist() == [2, 1, 2, 0]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"size": 0}, "size=0"),
        ({"channels": 2}, "channels=2"),
        ({"limit": 1}, "limit=1"),
        ({"split": "x"}, "split"),
    ],
)
def test_wrong_settings_are_told(settings, told):
    with pytest.raises(MicrotomeError, match=told):
        open_images("digits", **settings)


# -- digits and generated problems


def test_digits():
    test, train = open_images("digits"), open_images("digits", split="train", size=28, channels=3)
    assert test.pixels.shape == (355, 1, 8, 8) and train.pixels.shape == (1442, 3, 28, 28)
    assert test.labels["digit"].names == tuple("0123456789")
    assert int(test.pixels.max()) == 255
    few = open_images("digits", limit=20)
    assert np.bincount(few.labels["digit"].values).tolist() == [2] * 10
    assert few.digest != test.digest == open_images("digits").digest


def test_generated_problems():
    images = open_images("same-different", problem=7, size=32, channels=1, limit=10)
    assert images.pixels.shape == (10, 1, 32, 32)
    assert set(images.labels["same_different"].values.tolist()) == {0, 1}
    assert images.digest == open_images("same-different#7", size=32, channels=1, limit=10).digest
    assert images.digest != open_images("same-different#1", size=32, channels=1, limit=10).digest
    assert len(open_images("same-different#1,5", size=16, limit=12)) == 12
    for wrong in ("99", "x"):
        with pytest.raises(MicrotomeError, match=r"choose from 1, 2"):
            open_images(f"same-different#{wrong}")


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("", "no images given"),
        ("digit", "did you mean digits"),
        ("svrt:/no/such#1", "no such folder"),
        ("/no/such", "no such folder"),
        ("nothing:here", "no such folder"),
        ("\0", "no such folder"),
    ],
)
def test_unknown_sources_are_told(source, told):
    with pytest.raises(CannotLoad, match=told):
        open_images(source)


def test_a_file_of_another_kind_is_told(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(CannotLoad, match="no kind of image file known here"):
        open_images(str(tmp_path / "a.txt"))


# -- npz


def test_npz_arrays(tmp_path):
    x = np.arange(4 * 6 * 5 * 3, dtype=np.uint8).reshape(4, 6, 5, 3)
    np.savez(tmp_path / "a.npz", images=x, y=[3, 1, 3, 1], hand=["l", "r", "r", "l"], extra=np.zeros((2, 2)))
    images = open_images(str(tmp_path / "a.npz"))
    assert torch.equal(images.pixels, torch.from_numpy(x.transpose(0, 3, 1, 2).copy()))
    assert images.labels["label"].values.tolist() == [1, 0, 1, 0]
    assert images.labels["hand"].names == ("l", "r")


def test_npz_with_splits(tmp_path):
    x = np.random.default_rng(0).random((6, 8, 8))
    np.savez(tmp_path / "a.npz", x_train=x, y_train=[0, 1] * 3, x_test=x[:4], y_test=[0, 1] * 2)
    images = open_images(f"npz:{tmp_path / 'a.npz'}")
    assert images.pixels.shape == (4, 1, 8, 8) and images.pixels.dtype == torch.float32
    torch.testing.assert_close(images.inputs(mean=0.0, std=1.0), torch.from_numpy(x[:4, None]).float())
    assert len(open_images(str(tmp_path / "a.npz"), split="train", limit=4)) == 4
    with pytest.raises(CannotLoad, match="no val images; there are test, train"):
        open_images(str(tmp_path / "a.npz"), split="val")


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        ({"images": np.zeros((4, 8, 8))}, "no array with a label for each of 4 images"),
        ({"y": np.arange(4)}, "no images among its arrays"),
        ({"images": np.zeros((4, 8, 8)), "y": np.zeros(4)}, "one class only"),
        ({"images": np.full((2, 8, 8), np.nan), "y": np.arange(2)}, "NaN or infinity in the images"),
        ({"images": np.full((2, 8, 8), -1.0), "y": np.arange(2)}, "store 0 to 255"),
        ({"images": np.zeros((2, 5, 8, 8)), "y": np.arange(2)}, "is no set of images"),
        ({"images": np.zeros((2, 8, 8)), "y": [0, np.nan]}, "NaN or infinity among label"),
        ({"images": np.zeros((2, 8, 8)), "y": np.array([{}, {}])}, "need pickle"),
    ],
)
def test_npz_files_that_do_not_fit_are_told(tmp_path, arrays, told):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(CannotLoad, match=told):
        open_images(str(tmp_path / "a.npz"))


def test_truncated_npz_is_told(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"PK")
    with pytest.raises(CannotLoad, match="truncated or not an npz"):
        open_images(str(tmp_path / "a.npz"))


def test_floats_up_to_255_and_truth_values_become_bytes():
    assert as_pixels(np.full((1, 2, 2), 254.6), "x").unique().tolist() == [255]
    assert as_pixels(np.full((1, 2, 2), True), "x").unique().tolist() == [255]
    assert as_pixels(np.full((1, 2, 2), 7, np.int64), "x").unique().tolist() == [7]


# -- idx


def idx(array, code):
    big = array.astype(array.dtype.newbyteorder(">"))
    return bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + big.tobytes()


@pytest.mark.parametrize(
    ("dtype", "code"), [("u1", 8), ("i1", 9), ("i2", 11), ("i4", 12), ("f4", 13), ("f8", 14)]
)
@pytest.mark.parametrize("packed", [True, False])
def test_idx_files_of_every_type(tmp_path, dtype, code, packed):
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    raw = idx(array, code)
    (tmp_path / "a").write_bytes(gzip.compress(raw) if packed else raw)
    found = read_idx(tmp_path / "a")
    assert found.dtype == array.dtype and found.dtype.isnative
    np.testing.assert_array_equal(found, array)
    found[0] = 0  # an array of its own, not a view of the file's bytes


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "not an idx file"),
        (b"\0\0\x99\x01\0\0\0\0", "not an idx file"),
        (b"\0\0\x08\x01\0\0\0\x05ab", "10 bytes where its header announces 13"),
        (b"\0\0\x08\x03\0\0\0\x05", "header announces"),
        (b"\x1f\x8bno", "cannot be read"),
    ],
)
def test_broken_idx_files_are_told(tmp_path, content, told):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(CannotLoad, match=told):
        read_idx(tmp_path / "a")


def test_idx_images_with_their_labels(tmp_path):
    x, y = np.arange(4 * 64).astype(np.uint8).reshape(4, 8, 8), np.array([7, 3, 3, 7], np.uint8)
    files = {"t10k-images-idx3-ubyte.gz": gzip.compress(idx(x, 8)), "t10k-labels-idx1-ubyte": idx(y, 8)}
    images = open_images(str(write(tmp_path, files)))
    assert torch.equal(images.pixels[:, 0], torch.from_numpy(x))
    assert images.labels["label"].values.tolist() == [1, 0, 0, 1]
    assert open_images(f"idx:{tmp_path / 't10k-images-idx3-ubyte.gz'}").digest == images.digest
    with pytest.raises(CannotLoad, match="no train images; there are t10k"):
        open_images(str(tmp_path), split="train")
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx(y[:3], 8))
    with pytest.raises(CannotLoad, match="do not belong together"):
        open_images(str(tmp_path))
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(CannotLoad, match="labels, t10k-labels-idx1-ubyte"):
        open_images(str(tmp_path))


# -- HDF5


def episodes(path, shift=0, n=2):
    h5py = pytest.importorskip("h5py")
    rng = np.random.default_rng(shift)
    with h5py.File(path, "w") as file:
        for part, shots in (("support", 4), ("query", 2)):
            file[f"{part}_images"] = rng.integers(0, 256, (n, shots, 8, 8, 3), dtype=np.uint8)
            file[f"{part}_labels"] = np.tile([1.0, 0.0], (n, shots // 2))


def test_hdf5_episodes(tmp_path):
    h5py = pytest.importorskip("h5py")
    for i, task in enumerate(("regular", "open")):
        episodes(tmp_path / f"{task}_support4_test.h5", i)
    episodes(tmp_path / "regular_support4_train.h5", 9, n=1)
    both = open_images(str(tmp_path))
    assert len(both) == 24 and both.labels["task"].names == ("open", "regular")
    assert both.labels["same_different"].values[:6].tolist() == [1, 0, 1, 0, 1, 0]
    one = open_images(str(tmp_path), problem="open")
    assert len(one) == 12 and set(one.labels) == {"same_different"}
    with h5py.File(tmp_path / "open_support4_test.h5") as file:
        second_query = file["query_images"][1, 0].transpose(2, 0, 1)
    assert one.names[10] == "open_support4_test episode 1 query 0"
    np.testing.assert_array_equal(one.pixels[10].numpy(), second_query)
    assert len(open_images(f"hdf5:{tmp_path}#open", limit=4)) == 4
    assert len(open_images(str(tmp_path / "regular_support4_train.h5"))) == 6
    with pytest.raises(CannotLoad, match="no task 'lines'; there are open, regular"):
        open_images(str(tmp_path), problem="lines")
    with pytest.raises(CannotLoad, match="no val episodes; there are test, train"):
        open_images(str(tmp_path), split="val")


def test_hdf5_plain_arrays_and_broken_files(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"], file["y"] = np.zeros((4, 8, 8), np.uint8), [0, 1, 0, 1]
    assert open_images(str(tmp_path / "a.h5")).labels["label"].values.tolist() == [0, 1, 0, 1]
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["support_images"] = np.zeros((1, 2, 8, 8, 3), np.uint8)
    with pytest.raises(CannotLoad, match="support_labels is missing"):
        open_images(str(tmp_path / "b.h5"))
    (tmp_path / "c.h5").write_bytes(b"no")
    with pytest.raises(CannotLoad, match="not an HDF5 file"):
        open_images(str(tmp_path / "c.h5"))


# -- Omniglot


def omniglot_files(alphabets, top="images_background_small1"):
    return {
        f"{top}/{alphabet}/character{c:02d}/{c:04d}_{i:02d}.png": png(1 if i else 0, (8, 8), "1")
        for alphabet in alphabets
        for c in (1, 2)
        for i in (0, 1)
    }


def test_omniglot_zips_counted_once(tmp_path):
    zipped(tmp_path / "images_background_small1.zip", omniglot_files(["Greek", "Latin"]))
    zipped(
        tmp_path / "images_background_small2.zip", omniglot_files(["Japanese_(katakana)", "Latin"], "small2")
    )
    images = open_images(str(tmp_path))
    assert images.pixels.shape == (12, 1, 8, 8)
    assert images.labels["alphabet"].names == ("Greek", "Japanese_(katakana)", "Latin")
    assert images.labels["character"].names[:2] == ("Greek/character01", "Greek/character02")
    assert shades(images) == [255, 0] * 6  # strokes, which are black in the files, are bright
    part = open_images(f"omniglot:{tmp_path}#katakana,greek")
    assert part.labels["alphabet"].names == ("Greek", "Japanese_(katakana)") and len(part) == 8
    with pytest.raises(
        CannotLoad, match=r"no alphabet 'Klingon'; there are Greek, Japanese_\(katakana\), Latin"
    ):
        open_images(f"{tmp_path}#Klingon")
    unpacked = write(tmp_path / "files", omniglot_files(["Greek"], "."))
    assert len(open_images(str(unpacked))) == 4
    with pytest.raises(CannotLoad, match="no ALPHABET/character01"):
        open_images(f"omniglot:{write(tmp_path / 'else', folder_files())}")


def test_real_omniglot(real_data):
    images = open_images(str(real_data("omniglot")), size=28)
    assert images.pixels.shape == (4840, 1, 28, 28)
    assert len(images.labels["character"].names) == 242 and len(images.labels["alphabet"].names) == 8
    assert 0.01 < float((images.pixels > 127).float().mean()) < 0.2  # thin bright strokes
    assert np.bincount(images.labels["character"].values).tolist() == [20] * 242
