"""Starts the kernel inside the sandbox. The submission's own files come last on the path, so that they shadow nothing.

python -I kernel.py PROJECT CONNECTION_FILE [OPTIONS]

Only student code finds them before the standard library, as in JupyterLab, where a notebook's folder comes first: `test.py` is
what `import test` means in a notebook.
"""

import os
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import module_from_spec
from types import ModuleType

STANDARD = sys.stdlib_module_names | {"test"}  # Python's own tests, which are not listed


class Beside(MetaPathFinder):
    """Finds, for code of the submission, modules beside the notebook that are called like one of the standard library."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """The submission's module, if it is its code that imports it."""
        if path is None and name in STANDARD and self._asks_itself():
            spec = PathFinder.find_spec(name, [self.folder])
            if spec is not None and isinstance(spec.loader, SourceFileLoader):
                spec.loader = _Loader(name, spec.origin)
                return spec
        return None

    def _asks_itself(self) -> bool:
        frame = sys._getframe(2)
        while frame and frame.f_globals.get("__name__", "").startswith(("importlib", "_frozen_importlib")):
            frame = frame.f_back
        file = str(frame.f_globals.get("__file__", "")) if frame else "-"
        return frame is not None and (
            frame.f_globals.get("__name__") == "__main__" or file.startswith(f"{self.folder}{os.sep}")
        )


class _Loader(SourceFileLoader):
    """Takes the standard library's module after all, if the submission's cannot be loaded."""

    def exec_module(self, module: ModuleType) -> None:
        try:
            super().exec_module(module)
        except (Exception, SystemExit):
            spec = PathFinder.find_spec(module.__name__)
            sys.modules[module.__name__] = module_from_spec(spec)
            spec.loader.exec_module(sys.modules[module.__name__])


if __name__ == "__main__":
    project, connection_file, *more = sys.argv[1:]
    sys.path.insert(0, project)
    sys.path.append(os.getcwd())
    sys.meta_path.insert(0, Beside(os.getcwd()))
    from ipykernel.kernelapp import IPKernelApp

    options = ["--ignore-cwd", "--HistoryManager.enabled=False", "--log-level=CRITICAL"]
    IPKernelApp.launch_instance(["-f", connection_file, *options, *more])
