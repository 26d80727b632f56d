"""Fetching, against stand-ins on this machine that answer as Kaggle and the ISIC Archive do."""

import io
import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlparse

import pandas as pd
import pytest

from melanoma.cli.fetch import fetch_isic, fetch_kaggle
from melanoma.core.errors import BadInput, MelanomaError
from melanoma.data.table import check_labels, lesion_table, parse_sources
from support.images import encoded, noise
from support.servers import Answer, StandIn

pytest.importorskip("kagglehub")
pytest.importorskip("isic_cli")


@pytest.fixture
def serve() -> Iterator[Callable[[Callable], StandIn]]:
    running = []

    def start(answer) -> StandIn:
        running.append(StandIn(answer))
        return running[-1]

    yield start
    for server in running:
        server.stop()


def archive() -> bytes:
    "A folder data set as Kaggle sends it."
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as target:
        for label in ("benign", "malignant"):
            target.writestr(f"{label}/{label}.jpg", encoded(noise(), "JPEG"))
    return buffer.getvalue()


def kaggle(status: int = 200) -> Callable[[str, str, bytes], Answer]:
    "Kaggle's API as far as kagglehub asks for a data set or a competition."

    def answer(method: str, path: str, body: bytes) -> Answer:
        if status != 200:
            text = json.dumps({"code": status, "message": "no"}).encode()
            return status, {"Content-Type": "application/json"}, text
        if path.endswith("/GetDataset"):
            text = json.dumps({"currentVersionNumber": 3, "ref": "clinic/moles"}).encode()
            return 200, {"Content-Type": "application/json"}, text
        return 200, {"Content-Type": "application/zip"}, archive()

    return answer


@pytest.fixture
def at_kaggle(serve, monkeypatch, tmp_path) -> Callable[..., StandIn]:
    from kagglesdk import kaggle_env

    for name in ("KAGGLE_USERNAME", "KAGGLE_KEY", "KAGGLE_API_TOKEN", "KAGGLE_API_ENVIRONMENT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path / "home"))

    def start(status: int = 200, token: bool = True) -> StandIn:
        if token:
            monkeypatch.setenv("KAGGLE_USERNAME", "somebody")
            monkeypatch.setenv("KAGGLE_KEY", "secret")
        server = serve(kaggle(status))
        prod = kaggle_env.KaggleEnv.PROD
        monkeypatch.setitem(kaggle_env._env_to_endpoint, prod, server.url)
        return server

    return start


@pytest.mark.parametrize("slug", ["clinic/moles", "mole-competition"])
def test_a_kaggle_set_arrives_unpacked_and_is_a_source(at_kaggle, tmp_path, slug):
    server = at_kaggle()
    found = fetch_kaggle(slug, tmp_path / "data" / "moles")
    assert any("Download" in path for path, _ in server.asked)
    table = lesion_table(parse_sources(f"folder={found}"))
    assert table["target"].tolist() == [0, 1]


def test_a_set_that_is_there_is_not_loaded_again(at_kaggle, tmp_path):
    server = at_kaggle()
    fetch_kaggle("clinic/moles", tmp_path / "moles")
    loads = sum("Download" in path for path, _ in server.asked)
    fetch_kaggle("clinic/moles", tmp_path / "moles")
    assert sum("Download" in path for path, _ in server.asked) == loads


@pytest.mark.parametrize(
    ("slug", "status", "said"),
    [
        ("clinic/moles", 404, "Kaggle has no data set 'clinic/moles'"),
        ("mole-competition", 404, "Kaggle has no competition"),
        ("clinic/moles", 403, "kaggle.json"),
        ("mole-competition", 403, "rules must be accepted first: https://www.kaggle.com/c/mole"),
        ("clinic/moles", 401, "If it is the token"),
    ],
)
def test_what_kaggle_refuses_is_explained(at_kaggle, tmp_path, slug, status, said):
    at_kaggle(status)
    with pytest.raises(BadInput, match=said.replace("(", r"\(")):
        fetch_kaggle(slug, tmp_path / "data")


def test_a_competition_without_a_token_says_how_to_make_one(at_kaggle, tmp_path):
    at_kaggle(token=False)
    with pytest.raises(BadInput, match="https://www.kaggle.com/settings"):
        fetch_kaggle("mole-competition", tmp_path / "data")


@pytest.mark.parametrize("force", [False, True])
def test_other_files_in_the_folder_are_left_alone(at_kaggle, tmp_path, force):
    at_kaggle()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.txt").write_text("mine")
    for _ in range(2):
        found = fetch_kaggle("clinic/moles", tmp_path / "data", force)
    assert (tmp_path / "data" / "mine.txt").read_text() == "mine"
    assert found.is_relative_to(tmp_path / "data") and len(list(found.rglob("*.jpg"))) == 2


def test_a_slug_that_is_none_is_refused(at_kaggle, tmp_path):
    at_kaggle()
    with pytest.raises(BadInput, match="a/b/c/d/e"):
        fetch_kaggle("a/b/c/d/e", tmp_path / "data")


DIAGNOSES = [
    ("Malignant", "Malignant melanocytic proliferations (Melanoma)", "Melanoma Invasive"),
    ("Benign", "Benign melanocytic proliferations", "Nevus"),
    ("Indeterminate", "", ""),
]


def isic(missing: str = "") -> Callable[[str, str, bytes], Answer]:
    "The archive's API as far as isic-cli asks for a search and its images."

    def answer(method: str, path: str, body: bytes) -> Answer:
        asked = urlparse(path)
        json_type = {"Content-Type": "application/json"}
        if asked.path.startswith("/files/"):
            name = asked.path.split("/")[-1]
            if name.startswith(missing or "none"):
                return 404, {}, b""
            return 200, {"Content-Type": "image/jpeg"}, encoded(noise(seed=len(name)), "JPEG")
        if "/license-file/" in asked.path:
            return 200, {"Content-Type": "text/plain"}, b"Do as you like."
        if asked.path.endswith("/images/search/size/"):
            return 200, json_type, b'{"size": 5000}'
        if asked.path.endswith("/images/search/"):
            results = [
                {
                    "isic_id": f"ISIC_000000{i}",
                    "attribution": "a clinic",
                    "copyright_license": "CC-0",
                    "files": {"full": {"url": f"{Isic.url}/files/ISIC_000000{i}.jpg", "size": 9}},
                    "metadata": {
                        "acquisition": {"image_type": "dermoscopic"},
                        "clinical": {"diagnosis_1": one, "diagnosis_2": two, "diagnosis_3": three}
                        | {"sex": "male", "age_approx": 50, "anatom_site_general": "head/neck"},
                    },
                }
                for i, (one, two, three) in enumerate(DIAGNOSES)
            ]
            found = {"count": 3, "next": None, "previous": None, "results": results}
            return 200, json_type, json.dumps(found).encode()
        return 404, json_type, b"{}"

    return answer


class Isic:
    url = ""


@pytest.fixture
def at_isic(serve, monkeypatch) -> Callable[..., StandIn]:
    from isic_cli import cli

    def start(**options) -> StandIn:
        server = serve(isic(**options))
        monkeypatch.setattr(Isic, "url", server.url)
        monkeypatch.setitem(cli.DOMAINS, "prod", server.url)
        monkeypatch.setattr(cli, "check_for_newer_version", lambda: None)
        monkeypatch.setattr(cli, "_sentry_setup", lambda: None)
        return server

    return start


def test_the_archive_gives_images_and_labels_for_them(at_isic, tmp_path, capsys):
    server = at_isic()
    labels = fetch_isic(tmp_path / "isic", search="image_type:dermoscopic")
    assert any("dermoscopic" in path for path, _ in server.asked)
    assert "labels.csv has the 2 with a diagnosis, 1 melanomas" in capsys.readouterr().out
    table = lesion_table(parse_sources(f"csv={labels}"))
    check_labels(table)
    assert table["image_name"].tolist() == ["ISIC_0000000", "ISIC_0000001"]
    assert table["target"].tolist() == [1, 0] and set(table["anatom_site"]) == {"head/neck"}


def test_images_that_did_not_arrive_are_counted(at_isic, tmp_path):
    at_isic(missing="ISIC_0000001")
    with pytest.raises(MelanomaError, match="1 images did not arrive, the first ISIC_0000001"):
        fetch_isic(tmp_path / "isic")
    assert not (tmp_path / "isic" / "labels.csv").exists()


def test_an_archive_out_of_reach_is_said_at_once(monkeypatch, tmp_path):
    from isic_cli import cli

    monkeypatch.setitem(cli.DOMAINS, "prod", "http://127.0.0.1:9")
    with pytest.raises(MelanomaError, match="cannot be reached"):
        fetch_isic(tmp_path / "isic")


def test_labels_need_a_diagnosis():
    from melanoma.cli.fetch import isic_labels

    with pytest.raises(BadInput, match="no diagnosis_1"):
        isic_labels(pd.DataFrame({"isic_id": ["ISIC_1"]}))


def test_the_command_says_what_comes_next(at_kaggle, tmp_path, monkeypatch, capsys):
    from melanoma.cli.main import main

    at_kaggle()
    out = Path(tmp_path / "moles")
    monkeypatch.setattr(
        "sys.argv", ["melanoma", "fetch", "kaggle", "clinic/moles", "--out", str(out)]
    )
    with pytest.raises(SystemExit) as leaving:
        main()
    assert leaving.value.code == 0
    assert f"melanoma prepare --run NAME --source KIND={out}/" in capsys.readouterr().out
