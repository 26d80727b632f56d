"""Notebooks executed by papermill in this process: parameters and outputs as with a kernel."""

import contextlib
import traceback
from base64 import b64encode
from collections.abc import Iterator
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
from IPython.core.displayhook import DisplayHook
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from matplotlib_inline.backend_inline import configure_inline_support
from traitlets.config import Config

from melanoma.stages import kernel  # imports papermill the quick way

engines, new_output = kernel.papermill.engines, kernel.nbformat.v4.new_output
INLINE = "module://matplotlib_inline.backend_inline"
QUIET = Config({"HistoryManager": {"enabled": False}})  # none on the disk


class Within(engines.Engine):
    "papermill's engine, but for the kernel."

    @classmethod
    def execute_managed_notebook(
        cls,
        manager: Any,  # of the notebook: keeps the file up to date
        kernel_name: str,
        stdout_file: Any = None,
        stderr_file: Any = None,
        **_: Any,
    ) -> None:
        "Run the cells until one fails."
        shell, backend = Shell.instance(config=QUIET), mpl.get_backend()
        shell.fresh()
        streams = {"stdout": stdout_file, "stderr": stderr_file}
        try:
            with mpl.rc_context():
                plt.switch_backend(INLINE)
                configure_inline_support(shell, INLINE)  # its first import alone does so itself
                for i, cell in enumerate(manager.nb.cells):
                    manager.cell_start(cell, i)
                    error = run_cell(shell, cell, streams) if cell.cell_type == "code" else None
                    if error:
                        manager.cell_exception(cell, i, exception=error)
                    manager.cell_complete(cell, i)
                    if error:
                        break
        finally:
            plt.close("all")
            plt.switch_backend(backend)
            shell.fresh()


def run_cell(shell: InteractiveShell, cell: Any, streams: dict[str, Any]) -> BaseException | None:
    "Run a cell, keep what it puts out, and return its error."
    with capture_output() as captured:
        ran = shell.run_cell(cell.source, store_history=True)
    cell.execution_count = ran.execution_count
    for name, stream in streams.items():
        text = getattr(captured, name)
        if text:
            cell.outputs.append(new_output("stream", name=name, text=text))
        if text and stream:
            stream.write(text)
    for shown in captured.outputs:
        data = {k: b64encode(v).decode() if isinstance(v, bytes) else v
                for k, v in shown.data.items()}  # fmt: skip
        cell.outputs.append(new_output("display_data", data=data, metadata=shown.metadata or {}))
    error = ran.error_before_exec or ran.error_in_exec
    if error:
        what = {"ename": type(error).__name__, "evalue": str(error)}
        lines = traceback.format_exception(error)
        cell.outputs.append(new_output("error", **what, traceback=lines))
    return error


class Result(DisplayHook):
    "What a cell ends in is an output like any other."

    def write_output_prompt(self) -> None:
        "A notebook shows none."

    def write_format_data(self, format_dict: dict, md_dict: dict | None = None) -> None:
        self.shell.display_pub.publish(format_dict, md_dict or {})


class Shell(InteractiveShell):
    "IPython that says nothing of errors and starts each notebook without names."

    displayhook_class = Result

    def _showtraceback(self, *_: Any) -> None:
        "The caller has the error."

    def fresh(self) -> None:
        "Forget names and cells; its own reset collects garbage for a second."
        self.user_ns.clear()
        self.user_ns["__spec__"] = None  # processes that a cell starts ask for it
        self.history_manager.reset()
        self.init_user_ns()


@contextlib.contextmanager
def notebooks_within() -> Iterator[None]:
    "Within the block papermill runs notebooks in this process."
    engines.papermill_engines.register(None, Within)
    try:
        yield
    finally:
        engines.papermill_engines.register(None, engines.NBClientEngine)
