"""Preparing under stress: reduced decoding, several processes, killed, crashed, full, read-only."""

import contextlib
import errno
import io
import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
from PIL import Image

from melanoma.core.errors import BadImage, BadInput, MelanomaError
from melanoma.core.parallel import ordered_map
from melanoma.data import build, decode_many
from melanoma.data.build import build_store
from melanoma.data.decoding import decode, read_image
from melanoma.data.duplicates import NEAR, duplicate_pairs, near_pairs, perceptual_hash
from melanoma.data.folds import assign_folds
from melanoma.data.preprocessing import Preprocessing, resize
from melanoma.data.store import ImageArray, Store
from melanoma.data.table import lesion_table, parse_sources
from support.checks import contents
from support.commands import TESTS
from support.images import png_header


def lesion(seed: int, width: int = 1200, height: int = 800) -> Image.Image:
    "Spots on skin: smooth enough for JPEG, each seed another."
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:60, :90]
    spots = sum(
        np.exp(-((x - a) ** 2 + (y - b) ** 2) / s)
        for a, b, s in rng.uniform((5, 5, 9), (85, 55, 90), (12, 3))
    )
    skin = 220 - 60 * spots[..., None] * [0.6, 1, 1.1] + rng.normal(0, 4, (60, 90, 3))
    small = Image.fromarray(skin.clip(0, 255).astype(np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


def jpeg(image: Image.Image, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **({"quality": 90} | options))
    return buffer.getvalue()


def folder_of(root: Path, n: int, width: int = 300, height: int = 200) -> pd.DataFrame:
    "A table of n photos, every 20th of them broken."
    root.mkdir(parents=True)
    for i in range(n):
        data = jpeg(lesion(i, width, height))
        (root / f"photo{i:04}.jpg").write_bytes(data[: len(data) // 2] if i % 20 == 7 else data)
    return lesion_table(parse_sources(f"folder={root}"))


# decoding


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"subsampling": 0}, {"quality": 60}]
)
def test_reduced_decoding_stays_close_to_the_whole_image(mode, options):
    data = jpeg(lesion(1).convert(mode), **options)
    rule = Preprocessing(64)
    whole, reduced = read_image(data), read_image(data, rule.at_least)
    assert reduced.pixels.shape[0] < whole.pixels.shape[0] / 2
    assert min(reduced.pixels.shape[:2]) >= 2 * 64
    assert (reduced.width, reduced.height, reduced.mode) == (1200, 800, mode)
    assert np.abs(rule(data).astype(int) - resize(whole.pixels, 64)).mean() < 0.6


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_photo_is_upright_at_every_scale(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = jpeg(lesion(2), exif=exif)
    whole, reduced = read_image(data), read_image(data, 128)
    assert (whole.height, whole.width) == whole.pixels.shape[:2]
    assert (whole.width, whole.height) == (reduced.width, reduced.height)
    assert (whole.width > whole.height) == (orientation < 5)
    difference = resize(whole.pixels, 64).astype(int) - resize(reduced.pixels, 64)
    assert np.abs(difference).mean() < 0.6


def test_what_the_fast_path_cannot_read_goes_through_pillow():
    cmyk = jpeg(lesion(3).convert("CMYK"))
    assert read_image(cmyk, 128).pixels.shape == (800, 1200, 3)
    for form in ("PNG", "BMP", "TIFF", "WEBP"):
        buffer = io.BytesIO()
        lesion(3).save(buffer, form, **({"lossless": True} if form == "WEBP" else {}))
        assert np.array_equal(decode(buffer.getvalue(), 128), np.asarray(lesion(3)))


def test_a_small_jpeg_is_decoded_whole_by_either_rule():
    data = jpeg(lesion(4, 150, 100))
    with Image.open(io.BytesIO(data)) as image:
        assert np.array_equal(decode(data, 256), np.asarray(image.convert("RGB")))
    assert np.array_equal(Preprocessing(64)(data), Preprocessing(64, decode="full")(data))


@pytest.mark.parametrize("cut", [0.2, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("at_least", [0, 128])
def test_a_truncated_jpeg_is_refused_at_every_scale(cut, at_least):
    data = jpeg(lesion(5))
    with pytest.raises(BadImage, match="truncated"):
        read_image(data[: int(len(data) * cut)], at_least)


def test_a_jpeg_bomb_is_refused_before_it_is_decoded():
    data = bytearray(jpeg(lesion(6, 60, 40)))
    start = data.index(b"\xff\xc0")
    data[start + 5 : start + 9] = (60_000).to_bytes(2, "big") * 2
    before = psutil.Process().memory_info().rss
    for bomb in (bytes(data), png_header(60_000, 60_000)):
        with pytest.raises(BadImage, match="limit"):
            read_image(bomb, 128)
    assert psutil.Process().memory_info().rss - before < 300e6


def test_the_rule_remembers_what_the_decoder_kept():
    rule = Preprocessing(128, decode_for=512)
    assert Preprocessing.from_dict(rule.to_dict()) == rule and rule.at_least == 1024
    assert Preprocessing(128).decode_for == 128 and Preprocessing(128, decode="full").at_least == 0
    old = {"size": 128, "square": "squash", "decode": "full", "version": 1}  # before decode_for
    assert Preprocessing.from_dict(old).at_least == 0
    with pytest.raises(BadInput, match="decode_for 512 against 128"):
        rule.check_same(Preprocessing(128), "the weights", "the store")
    with pytest.raises(BadInput, match="decode rule 'half' is not known"):
        Preprocessing(128, decode="half")


def test_all_sizes_of_a_run_come_from_one_decode_that_prediction_repeats(tmp_path):
    table = folder_of(tmp_path / "photos", 5, 1500, 1000)
    build_store(table, tmp_path / "run", [32, 128])
    for size in (32, 128):
        store = Store.open(tmp_path / "run", size)
        assert store.preprocessing == Preprocessing(size, decode_for=128)
        for pixels, path in zip(store.images, store.table["path"], strict=True):
            assert np.array_equal(pixels, store.preprocessing(path))
    again = build_store(table, tmp_path / "predict", [32], decode_for=128)
    assert np.array_equal(again.images, Store.open(tmp_path / "run", 32).images)
    full = build_store(table, tmp_path / "full", [32], decode="full")
    assert np.array_equal(full.images[2], resize(decode(full.table["path"][2]), 32))


# several processes


def slow_square(i: int) -> int:
    "Later items finish first."
    time.sleep(0.01 if i % 16 == 0 else 0)
    return i * i


def crash_at_40(i: int) -> int:
    if i == 40:
        os.kill(os.getpid(), signal.SIGSEGV)
    return i


def fail_at_50(i: int) -> int:
    if i == 50:
        raise BadInput("item 50")
    return i


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_results_come_in_order(workers):
    assert list(ordered_map(slow_square, range(200), workers)) == [i * i for i in range(200)]


@pytest.mark.slow
def test_a_crash_costs_the_item_that_crashes_and_nothing_else():
    found = list(ordered_map(crash_at_40, range(150), 2, crashed=lambda i: -i))
    assert found == [-i if i == 40 else i for i in range(150)]


def test_an_exception_of_the_function_arrives():
    results = ordered_map(fail_at_50, range(100), 2)
    with pytest.raises(BadInput, match="item 50"):
        list(results)


def test_a_script_without_a_guard_is_told_so_and_no_image_is_blamed(tmp_path):
    script = tmp_path / "careless.py"
    script.write_text(
        "import math\nfrom melanoma.core.parallel import ordered_map\n"
        "print(list(ordered_map(math.sqrt, range(100), 2, crashed=lambda i: -1)))\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert done.returncode and not done.stdout
    assert "no further process can be started here" in done.stderr


def test_an_unforeseen_error_costs_its_image_alone(tmp_path, monkeypatch):
    table = folder_of(tmp_path / "photos", 10)
    whole, calls = decode_many.perceptual_hash, []

    def odd(image):
        calls.append(image)
        if len(calls) == 3:
            raise ArithmeticError("too dark")
        return whole(image)

    monkeypatch.setattr(decode_many, "perceptual_hash", odd)
    store = build_store(table, tmp_path / "store", [32])
    said = dict(zip(store.rejected["image_name"], store.rejected["reason"], strict=True))
    assert said.pop("photo0002") == "cannot be decoded: ArithmeticError: too dark"
    assert list(said) == ["photo0007"] and len(store) == 8


@pytest.mark.slow
def test_processes_end_with_a_parent_that_is_killed(tmp_path):
    code = (
        "import time\nfrom support.checks import double\n"
        "from melanoma.core.parallel import ordered_map\n"
        "results = ordered_map(double, iter(range(10**9)), 2)\n"
        "next(results)\nprint('running', flush=True)\ntime.sleep(100)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=TESTS)
    assert process.stdout and process.stdout.readline() == b"running\n"
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 3  # the fork server, two workers
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> tuple[pd.DataFrame, dict[str, bytes]]:
    "400 photos, 20 of them broken, and the store that one process makes of them."
    root = tmp_path_factory.mktemp("many")
    table = folder_of(root / "photos", 400)
    build_store(table, root / "store", [32, 64], workers=1)
    return table, contents(root / "store")


@pytest.mark.parametrize("workers", [2, 3])
def test_the_bytes_do_not_depend_on_the_number_of_processes(many, tmp_path, workers):
    table, expected = many
    build_store(table, tmp_path / "store", [32, 64], workers=workers)
    assert contents(tmp_path / "store") == expected


def journalled(store: Path) -> int:
    "How many images the journal of an unfinished store vouches for."
    journal = next(store.glob("unfinished-*/journal.jsonl"), None)
    lines = journal.read_text().splitlines() if journal else []
    return sum(len(json.loads(line)) for line in lines if line.endswith("]"))


def test_killed_three_times_the_store_has_the_same_bytes(many, tmp_path):
    table, expected = many
    table.to_parquet(tmp_path / "table.parquet")
    store = tmp_path / "store"
    code = (
        "import pandas as pd\nfrom pathlib import Path\n"
        "from melanoma.data import build, decode_many\n"
        "decode_many.CHUNK = 20\n"
        f"table = pd.read_parquet({str(tmp_path / 'table.parquet')!r})\n"
        f"build.build_store(table, Path({str(store)!r}), [32, 64], workers=2)\n"
    )
    done = 0
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
        until = time.monotonic() + 60
        while journalled(store) <= done and process.poll() is None and time.monotonic() < until:
            time.sleep(0.005)
        process.kill()
        process.wait()
        assert journalled(store) > done and not (store / "manifest.json").exists()
        done = journalled(store)
    asked = []
    with pytest.MonkeyPatch.context() as patch:

        def watched(function, jobs, *rest):
            jobs = list(jobs)
            asked.extend(job[0] for job in jobs)
            return ordered_map(function, jobs, *rest)

        patch.setattr(decode_many, "ordered_map", watched)
        build_store(table, store, [32, 64], workers=2)
    assert asked == list(range(done, 400))  # what the journal vouches for is not read again
    assert contents(store) == expected


def test_two_processes_do_not_prepare_one_store(many, tmp_path, monkeypatch):
    table, expected = many
    whole = build.fill_arrays

    def meanwhile(*arguments):
        with pytest.raises(BadInput, match="store is in use: .* is being prepared"):
            build_store(table, tmp_path / "store", [32, 64])
        return whole(*arguments)

    monkeypatch.setattr(build, "fill_arrays", meanwhile)
    build_store(table, tmp_path / "store", [32, 64])
    assert contents(tmp_path / "store") == expected


def test_names_that_are_numbers_stay_text(tmp_path):
    (tmp_path / "photos").mkdir()
    for name in ("0101", "0102"):
        (tmp_path / "photos" / f"{name}.jpg").write_bytes(jpeg(lesion(1)))
    table = lesion_table(parse_sources(f"folder={tmp_path / 'photos'}"))
    pairs = build_store(table, tmp_path / "store", [32]).duplicates()
    assert pairs[["image_name_1", "image_name_2"]].to_numpy().tolist() == [["0101", "0102"]]


@pytest.mark.slow
def test_an_image_that_brings_the_decoder_down_is_rejected(tmp_path, monkeypatch):
    table = folder_of(tmp_path / "photos", 40)
    killer = Path(table["path"].iloc[5])
    killer.write_bytes(killer.read_bytes()[:-2] + b"CRASH")
    monkeypatch.setattr(decode_many, "read_job", crash_on_mark)
    store = build_store(table, tmp_path / "store", [32], workers=2)
    assert len(store) == 37  # 2 of 40 are broken anyway
    assert "the decoder crashed on it" in store.rejected["reason"].tolist()


read_job = decode_many.read_job


def crash_on_mark(job, rules):
    "Reads as the library does, but a file with a mark ends the process."
    if Path(job[1]).read_bytes().endswith(b"CRASH"):
        os.kill(os.getpid(), signal.SIGKILL)
    return read_job(job, rules)


# disks and folders


@contextlib.contextmanager
def small_disk(folder: Path, options: str) -> Iterator[Path]:
    "A tmpfs, where one may be mounted."
    folder.mkdir()
    call = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    try:
        subprocess.run(call, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no tmpfs can be mounted here: {error}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_is_too_small_is_refused_before_anything_is_decoded(many, tmp_path):
    table, _ = many
    with small_disk(tmp_path / "disk", "size=1m") as disk:
        with pytest.raises(BadInput, match="GB more, but its disk has only"):
            build_store(table, disk / "store", [32, 64])
        assert not list(disk.rglob("images.npy"))


def test_a_disk_that_fills_up_says_so_and_a_larger_one_goes_on(many, tmp_path, monkeypatch):
    table, expected = many
    monkeypatch.setattr(decode_many, "CHUNK", 20)
    with small_disk(tmp_path / "disk", "size=2m") as disk:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(decode_many, "need_space", lambda *_: None)
            with pytest.raises(MelanomaError, match="is full. Make room"):
                build_store(table, disk / "store", [32, 64], workers=2)
        assert not (disk / "store" / "manifest.json").exists()
        assert next(disk.glob("store/unfinished-*/journal.jsonl")).stat().st_size > 0
        subprocess.run(["mount", "-o", "remount,size=30m", str(disk)], check=True)
        build_store(table, disk / "store", [32, 64], workers=2)
        assert contents(disk / "store") == expected


def test_a_read_only_folder_is_named(many, tmp_path):
    table, _ = many
    with (
        small_disk(tmp_path / "disk", "size=30m,ro") as disk,
        pytest.raises(BadInput, match="cannot be written to: Read-only"),
    ):
        build_store(table, disk / "store", [32])


def test_a_folder_of_somebody_else_is_named(many):
    table, _ = many
    closed = Path(tempfile.mkdtemp())  # not below tmp_path, which nobody else may enter
    closed.chmod(0o555)
    root = os.geteuid() == 0
    try:
        if root:
            os.seteuid(65_534)
        with pytest.raises(BadInput, match="cannot be written to: Permission denied"):
            build_store(table, closed / "store", [32], workers=1)
        assert not list(closed.iterdir())
    finally:
        if root:
            os.seteuid(0)
        closed.rmdir()


def test_files_that_vanish_while_reading_are_rejected_and_the_rest_kept(tmp_path, monkeypatch):
    table = folder_of(tmp_path / "photos", 60)
    gone = [3, 33, 59]

    def vanish(function, jobs, *rest):
        for i in gone:
            Path(table["path"].iloc[i]).unlink()
        return ordered_map(function, jobs, *rest)

    monkeypatch.setattr(decode_many, "ordered_map", vanish)
    store = build_store(table, tmp_path / "store", [32], workers=2)
    reasons = store.rejected.set_index("image_name")["reason"]
    assert [f"photo{i:04}" for i in gone] == reasons.index[reasons.str.contains("No such")].tolist()
    assert len(store) + len(store.rejected) == 60 and len(store.rejected) == 3 + 3


def test_five_percent_of_files_corrupt_leave_the_good_ones(many):
    table, expected = many
    rejected = pd.read_csv(io.BytesIO(expected["rejected.csv"]))
    assert len(rejected) == 20 and rejected["reason"].str.contains("truncated").all()
    kept = pd.read_parquet(io.BytesIO(expected["table.parquet"]))
    assert kept["image_name"].tolist() == [n for n in table["image_name"] if int(n[5:]) % 20 != 7]
    assert set(kept["width"]) == {300} and set(kept["mode"]) == {"RGB"}


def test_an_error_without_a_better_word_says_that_nothing_is_lost(many, tmp_path, monkeypatch):
    table, _ = many

    def broken(handle):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(MelanomaError, match="Input/output error. Nothing is lost"):
        build_store(table, tmp_path / "store", [32], workers=1)


# reading


@pytest.fixture
def array(tmp_path) -> tuple[Path, np.ndarray]:
    pixels = np.random.default_rng(0).integers(0, 255, (20, 8, 8, 3), np.uint8)
    np.save(tmp_path / "images.npy", pixels)
    return tmp_path / "images.npy", pixels


def test_an_image_array_reads_as_the_array_would(array):
    path, pixels = array
    images = ImageArray(path)
    assert images.shape == pixels.shape and len(images) == 20 and images.nbytes == pixels.nbytes
    for key in (0, -1, np.int64(7), slice(3, 9, 2), [4, 2, 2], np.arange(20) % 3 == 0):
        assert np.array_equal(images[key], pixels[key])
    assert np.array_equal(np.asarray(images), pixels) and np.array_equal(images.mapped(), pixels)
    assert np.array_equal(np.stack(list(images)), pixels)
    with pytest.raises(IndexError):
        images[20]
    out = np.zeros((8, 8, 3), np.uint8)
    assert images.read(5, out) is out and np.array_equal(out, pixels[5])
    images[3][:] = 0  # the caller's own copy
    assert np.array_equal(images[3], pixels[3])


def test_an_image_array_travels_as_its_path(array):
    path, pixels = array
    images = ImageArray(path)
    assert images[2].any()  # its file is open
    travelled = pickle.dumps(images)
    assert len(travelled) < 1000
    assert np.array_equal(pickle.loads(travelled)[2], pixels[2])


def test_an_array_that_is_cut_off_is_an_error_not_a_crash(array):
    path, _ = array
    images = ImageArray(path)
    os.truncate(path, 1500)
    with pytest.raises(BadInput, match="cut off while it was in use"):
        images[19]
    with pytest.raises(ValueError, match="is cut off"):
        ImageArray(path)


# duplicates


def test_a_photo_saved_again_is_found_and_another_is_not():
    photos = [lesion(i, 300, 200) for i in range(30)]
    again = decode(jpeg(photos[4].resize((240, 160)), quality=40))
    bright = Image.fromarray((np.asarray(photos[9]) * 0.85).astype(np.uint8))
    arrays = [*(np.asarray(p) for p in photos), again, np.asarray(bright)]
    hashes = pd.Series([perceptual_hash(resize(a, 64)) for a in arrays])
    pairs, _ = near_pairs(hashes, NEAR)
    assert set(zip(pairs["first"], pairs["second"], strict=True)) == {(4, 30), (9, 31)}


def test_near_pairs_count_bits():
    words = ["0" * 64, "0" * 63 + "7", "f" * 64, "0" * 60 + "ffff"]
    pairs, _ = near_pairs(pd.Series(words), 16)
    found = {(r.first, r.second): r.distance for r in pairs.itertuples()}
    assert found == {(0, 1): 3, (0, 3): 16, (1, 3): 13}


def near_table(tmp_path: Path) -> Store:
    "Ten patients; patient 3 has a photo that patient 7 has again, brighter, and one photo twice."
    folder = tmp_path / "photos"
    folder.mkdir()
    rows = []
    for i in range(10):
        (folder / f"p{i}.jpg").write_bytes(jpeg(lesion(i, 300, 200)))
        rows.append((f"p{i}.jpg", i % 2, f"patient{i}"))
    bright = Image.fromarray((np.asarray(lesion(3, 300, 200)) * 0.9).astype(np.uint8))
    (folder / "again.jpg").write_bytes(jpeg(bright))
    (folder / "copy.jpg").write_bytes((folder / "p2.jpg").read_bytes())
    rows += [("again.jpg", 1, "patient7"), ("copy.jpg", 0, "patient8")]
    frame = pd.DataFrame(rows, columns=["image_name", "target", "patient"])
    frame.to_csv(folder / "labels.csv", index=False)
    source = parse_sources(f"csv={folder / 'labels.csv'}", group_col="patient")
    return build_store(lesion_table(source), tmp_path / "store", [32])


def test_duplicates_are_listed_and_share_a_group(tmp_path):
    store = near_table(tmp_path)
    pairs = store.duplicates().set_index(["image_name_1", "image_name_2"])
    assert pairs["kind"].to_dict() == {("p2", "copy"): "identical", ("p3", "again"): "near"}
    assert not pairs["same_group"].any() and pairs.loc[("p2", "copy"), "distance"] == 0
    group = store.table.set_index("image_name")["group"]
    assert group["p3"] == group["p7"] == group["again"] and group["p2"] == group["p8"]
    near = store.table.set_index("image_name")["near_duplicate_of"].dropna()
    assert near.to_dict() == {"again": "p3"}


@pytest.mark.parametrize(
    ("duplicates", "gone"),
    [("keep", set()), ("drop", {"copy"}), ("drop-near", {"copy", "again"})],
)
def test_folds_keep_or_drop_duplicates(tmp_path, duplicates, gone):
    table = near_table(tmp_path).table
    folds = assign_folds(table, 2, duplicates=duplicates)
    assert set(table["image_name"]) - set(folds["image_name"]) == gone
    assert (folds.groupby("group")["fold"].nunique() == 1).all()


def test_published_pairs_are_named_as_such():
    table = pd.DataFrame(
        {
            "source": "siim2020",
            "image_name": ["a", "b", "c"],
            "group": ["x", "y", "z"],
            "sha256": ["1", "2", "3"],
            "phash": ["0" * 64, "f" * 64, "3" * 64],
            "duplicate_of": [None, "a", None],
        }
    )
    pairs = duplicate_pairs(table)
    assert pairs[["first", "second", "kind"]].to_numpy().tolist() == [[0, 1, "published"]]
    assert pairs["distance"].isna().all()


def test_real_duplicates_are_found(tmp_path):
    "The known pairs of ISIC 2017 and HAM10000 among a few hundred other lesions."
    if not os.environ.get("MELANOMA_DATA"):
        pytest.skip("MELANOMA_DATA is not set: the real data sets are not part of the project")
    real = Path(os.environ["MELANOMA_DATA"])
    table = lesion_table(
        parse_sources(f"isic2017={real / 'isic2017'};ham10000={real / 'ham10000'}")
    )
    known = {("ISIC_0012970", "ISIC_0012127"): "identical"}  # across training and validation
    known |= {("ISIC_0025226", "ISIC_0030074"): "near", ("ISIC_0000171", "ISIC_0015124"): "near"}
    names = {name for pair in known for name in pair}
    wanted = table["image_name"].isin(names) | (table.index % 40 == 0)
    store = build_store(table[wanted].reset_index(drop=True), tmp_path / "store", [32])
    pairs = store.duplicates()
    named = pairs[["image_name_1", "image_name_2", "kind"]].to_numpy()
    found = {frozenset(p): k for *p, k in named}
    assert {pair: found.get(frozenset(pair)) for pair in known} == known
    unknown = pairs[~pairs["same_group"] & pairs["kind"].isin(["identical", "near"])]
    assert len(unknown) == len(known)
