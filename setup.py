"""Builds what Python can't do: two extension modules and the stub, the program that restricted processes run.

Everything else about the package is in pyproject.toml.
"""

from __future__ import annotations

import compileall
import os
import platform
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
RESTRICTED = Path("addrspace/restricted")
PACKAGES = ("polynix", "addrspace", "ipc", "kernelproc", "runner", "tools")
STUB_TEXT = 0x7FF8_0000_0000  # checked against layout.h below
STUB_FLAGS = [
    *("-O2", "-std=gnu11", "-Wall", "-Wextra", "-ffreestanding", "-fno-builtin", "-fno-stack-protector", "-fpie"),
    *("-mgeneral-regs-only", "-fno-asynchronous-unwind-tables", "-fcf-protection=none", "-fno-tree-loop-distribute-patterns"),
    *("-nostdlib", "-static", "-no-pie", f"-Wl,--defsym=stub_base={STUB_TEXT:#x}", "-Wl,--build-id=none"),
    *("-Wl,-z,noexecstack", "-Wl,-z,max-page-size=4096"),
]


def compiler() -> list[str]:
    """The C compiler's command: $CC, or cc. Exits with one line when it can't work here."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise SystemExit(f"polynix: needs Linux on x86-64, this is {sys.platform} on {platform.machine()}")
    command = shlex.split(os.environ.get("CC", "cc")) or ["cc"]
    if shutil.which(command[0]) is None:
        raise SystemExit(f"polynix: needs a C compiler to install, and there is no {command[0]!r} (set CC, or install gcc)")
    return command


class BuildExtensions(build_ext):
    """build_ext, and the stub beside the modules."""

    def run(self) -> None:
        os.environ.setdefault("CC", shlex.join(compiler()))
        super().run()
        self.build_stub()
        if self.inplace or self.editable_mode:
            for package in PACKAGES:  # an install compiles them anyway; without bytecode, each start would take twice as long
                compileall.compile_dir(ROOT / package, quiet=2)

    def stub_path(self) -> Path:
        if self.inplace or self.editable_mode:
            return ROOT / RESTRICTED / "stub"
        return Path(self.build_lib) / "polynix" / RESTRICTED / "stub"

    def build_stub(self) -> None:
        if f"#define STUB_TEXT {STUB_TEXT:#x}\n" not in (ROOT / RESTRICTED / "layout.h").read_text():
            raise SystemExit("polynix: STUB_TEXT in setup.py and layout.h differ")
        target = self.stub_path()
        target.parent.mkdir(parents=True, exist_ok=True)
        source = RESTRICTED / "stub.c"
        command = [*compiler(), *STUB_FLAGS, f"-Wl,-T,{RESTRICTED / 'stub.ld'}", "-o", str(target), str(source)]
        if subprocess.run(command, cwd=ROOT).returncode != 0:
            raise SystemExit("polynix: the C compiler could not build the stub (see above)")
        target.chmod(0o755)

    def get_outputs(self) -> list[str]:
        return [*super().get_outputs(), str(self.stub_path())]


def sources(*patterns: str) -> list[str]:
    return sorted(str(path.relative_to(ROOT)) for pattern in patterns for path in ROOT.glob(pattern))


def extension(name: str, files: list[str], depends: list[str]) -> Extension:
    return Extension(
        name, files, depends=depends, extra_compile_args=["-O2", "-std=gnu11", "-Wall", "-Wextra", "-Wno-unused-parameter"]
    )


restricted = [path for path in sources("addrspace/restricted/*.c") if not path.endswith("/stub.c")]
usercopy = sources("addrspace/_usercopy*.c", "addrspace/usercopy/*.c")
extensions = [extension("polynix.addrspace._restricted", restricted, sources("addrspace/restricted/*.h"))]
if usercopy:
    extensions.append(
        extension("polynix.addrspace._usercopy", usercopy, sources("addrspace/_usercopy*.h", "addrspace/usercopy/*.h"))
    )

setup(ext_modules=extensions, cmdclass={"build_ext": BuildExtensions})
