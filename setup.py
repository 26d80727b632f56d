"""Reads settings.ini, where the package is described, and ships the notebooks that it runs."""

import configparser
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent
config = configparser.ConfigParser(delimiters=["="])
config.read(HERE / "settings.ini", encoding="utf-8")
settings = config["DEFAULT"]
EXTRAS = ("dicom", "heic", "excel", "hdf5", "fetch", "serve", "export", "kaggle", "docs")
NOTEBOOKS = {"stages": "pipeline", "kernels": "kaggle"}  # folder in the package: in nbs/


class BuildWithStages(build_py):
    """Stage and kernel notebooks go into the package: an installed wheel runs the same ones."""

    def run(self):
        super().run()
        if self.editable_mode:  # the source tree's own nbs/ is found instead
            return
        for inside, outside in NOTEBOOKS.items():
            folder = Path(self.build_lib) / "melanoma" / inside
            folder.mkdir(parents=True, exist_ok=True)
            for notebook in sorted((HERE / "nbs" / outside).glob("*.ipynb")):
                shutil.copyfile(notebook, folder / notebook.name)


setup(
    name=settings["lib_name"],
    version=settings["version"],
    description=settings["description"],
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author=settings["author"],
    license="Apache-2.0",
    url=settings["git_url"],
    keywords=settings["keywords"].split(),
    packages=[settings["lib_path"]],
    include_package_data=True,
    package_data={"melanoma": ["stages/*.ipynb", "kernels/*.ipynb", "web/*", "data/*", "py.typed"]},
    python_requires=">=" + settings["min_python"],
    install_requires=settings["requirements"].split(),
    extras_require={
        **(extras := {k: settings[f"{k}_requirements"].split() for k in EXTRAS}),
        "dev": sum(extras.values(), settings["dev_requirements"].split()),
    },
    entry_points={"console_scripts": settings["console_scripts"].split()},
    cmdclass={"build_py": BuildWithStages},
)
