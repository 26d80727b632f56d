"""Reads settings.ini, where the package is described, and ships the notebooks that it runs."""

import configparser
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent
config = configparser.ConfigParser(delimiters=["="])
config.read(HERE / "settings.ini", encoding="utf-8")
settings = config["DEFAULT"]
EXTRAS = ("dicom", "report", "heic", "excel", "hdf5", "fetch", "serve", "export", "kaggle", "docs")
NOTEBOOKS = ("pipeline", "kaggle/kernels")  # folders of nbs/ that the program runs
SHIPPED = "weights/isic"  # the trained model that comes with the program
SHIPPED_FILES = ("ensemble.onnx", "ensemble.json", "oof.csv", "README.md", "LICENSE")


class BuildWithStages(build_py):
    """Notebooks and the trained model go into the package; a wheel runs the same ones."""

    def run(self):
        super().run()
        if self.editable_mode:  # the source tree's own nbs/ is found instead
            return
        for name in NOTEBOOKS:
            folder = Path(self.build_lib) / "melanoma" / "notebooks" / name
            folder.mkdir(parents=True, exist_ok=True)
            for notebook in sorted((HERE / "nbs" / name).glob("*.ipynb")):
                shutil.copyfile(notebook, folder / notebook.name)
        if (HERE / SHIPPED).is_dir():
            folder = Path(self.build_lib) / "melanoma" / "shipped" / SHIPPED
            folder.mkdir(parents=True, exist_ok=True)
            for name in SHIPPED_FILES:
                shutil.copyfile(HERE / SHIPPED / name, folder / name)


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
    packages=find_packages(include=["melanoma", "melanoma.*"]),
    include_package_data=True,
    package_data={
        "melanoma": [
            "notebooks/**/*.ipynb",
            "web/*",
            "web/lesions/*",
            "templates/*",
            "*.txt",
            "py.typed",
        ]
    },
    python_requires=">=" + settings["min_python"],
    install_requires=settings["requirements"].split(),
    extras_require={
        **(extras := {k: settings[f"{k}_requirements"].split() for k in EXTRAS}),
        "dev": sum(extras.values(), settings["dev_requirements"].split()),
    },
    entry_points={"console_scripts": settings["console_scripts"].split()},
    cmdclass={"build_py": BuildWithStages},
)
