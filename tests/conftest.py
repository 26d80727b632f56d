"""What most tests start from: drawn images, a run prepared, trained, exported and served."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from support.commands import TINY, copy_of, succeed
from support.servers import Server, serving

# a shell starts what runs in its background deaf to Ctrl+C, and children inherit that; the commands
# under test must hear it
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    "Whatever waits for a training or for a server is slow."
    for item in items:
        if {"trained", "server"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def once(tmp_path_factory, worker_id) -> Callable[..., Path]:
    "A folder made once, by whichever of pytest-xdist's workers needs it first; each gets a copy."
    base = tmp_path_factory.getbasetemp()

    def make(name: str, fill: Callable[[Path], None], shared: bool = False) -> Path:
        if worker_id == "master":
            folder = tmp_path_factory.mktemp(name)
            fill(folder)
            return folder
        whole = base.parent / f"once-{name}"
        with FileLock(f"{whole}.lock"):
            if not whole.exists():
                begun = base / f"begun-{name}"
                begun.mkdir()
                fill(begun)
                begun.rename(whole)
        return whole if shared else copy_of(whole, base / name)

    return make


@pytest.fixture(scope="session")
def drawn(once) -> Path:
    "A drawn data set in SIIM-2020's layout, to be read alone: 30 patients, 5 more to predict."
    from melanoma.data.synthetic import make_dataset

    def draw(folder: Path) -> None:
        make_dataset(folder / "siim2020", 30, 5, size=64, prevalence=0.3)

    return once("drawn", draw, shared=True) / "siim2020"


@pytest.fixture(scope="session")
def prepared(once, drawn) -> Path:
    "A project's root with the run `tiny`: prepared at 32 px, two folds, nothing trained."

    def prepare(root: Path) -> None:
        succeed(root, "prepare", "--run", "tiny", "--size", "32", "--source", f"siim2020={drawn}")
        succeed(root, "folds", "--run", "tiny", "--n-folds", "2")

    return once("project", prepare)


@pytest.fixture(scope="session")
def trained(once, prepared) -> Path:
    "A copy of it with both folds trained and evaluated."

    def train(root: Path) -> None:
        copy_of(prepared, root)
        succeed(root, "train", "--run", "tiny", "--folds", "0-1", *TINY, "-p", "epochs", "2")
        succeed(root, "evaluate", "--run", "tiny")

    return once("trained", train)


@pytest.fixture(scope="session")
def exported(once, trained) -> Path:
    "A copy of that with the run's graph exported."

    def export(root: Path) -> None:
        copy_of(trained, root)
        succeed(root, "export", "--run", "tiny")

    return once("exported", export)


@pytest.fixture
def project(trained, tmp_path) -> Path:
    "A copy of the trained project, to write into."
    return copy_of(trained, tmp_path / "project")


def stand(root: Path) -> dict[Path, tuple[int, int]]:
    "Every file below a folder but locks and compiled graphs: bytes, and when it was written last."
    files = (p for p in root.rglob("*") if p.is_file() and p.suffix != ".lock")
    files = (p for p in files if p.parent.suffix != ".cache")
    return {p: (p.stat().st_size, p.stat().st_mtime_ns) for p in files}


@pytest.fixture(autouse=True)
def shared_stay_as_they_are(request) -> Iterator[None]:
    "Fail the test that writes into what the others start from."
    names = [n for n in ("prepared", "trained", "exported") if n in request.fixturenames]
    shared = {name: request.getfixturevalue(name) for name in names}
    before = {name: stand(root) for name, root in shared.items()}
    yield
    for name, root in shared.items():
        changed = {p for p, _ in before[name].items() ^ stand(root).items()}
        assert not changed, f"the test wrote into {name!r}; take a copy: {sorted(changed)}"


@pytest.fixture(scope="session")
def server(exported, tmp_path_factory) -> Iterator[Server]:
    "A server of the run `tiny`, shared by the tests that leave it as it was."
    log = tmp_path_factory.mktemp("served") / "log"
    with serving(exported, log, "--run", "tiny", "--max-upload-mb", "5") as running:
        yield running.wait()


@pytest.fixture(scope="session")
def service(server) -> str:
    "Its address."
    return server.url
