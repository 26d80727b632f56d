"""What tests of data share: a small data set in every layout."""

from pathlib import Path

import pytest

from melanoma.data.build import build_store
from melanoma.data.store import Store
from melanoma.data.table import lesion_table
from support.layouts import FILES, SIZE, make_every, sources


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    "Every layout in a folder of its name; not to be changed."
    return make_every(tmp_path_factory.mktemp("sources"))


@pytest.fixture(scope="session")
def everything(data, tmp_path_factory) -> Store:
    "The store of all sources that are files."
    table = lesion_table(sources(data, *FILES, train_only="isic2017"))
    return build_store(table, tmp_path_factory.mktemp("everything"), [SIZE, 48])
