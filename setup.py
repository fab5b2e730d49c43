"""Builds what Python can't do: extension modules and the stub, the program that restricted processes run.

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
from collections.abc import Sequence
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
RESTRICTED = Path("addrspace/restricted")
PACKAGES = ("polynix", "addrspace", "ipc", "kernelproc", "runner", "tools")
STUB_TEXT, GUEST_VDSO = 0x7FF8_0000_0000, 0x7FF8_0000_2000  # checked against layout.h below
FREESTANDING = [
    *("-O2", "-std=gnu11", "-Wall", "-Wextra", "-ffreestanding", "-fno-builtin", "-fno-stack-protector", "-mgeneral-regs-only"),
    *("-fcf-protection=none", "-fno-tree-loop-distribute-patterns", "-nostdlib", "-Wl,--build-id=none", "-Wl,-z,noexecstack"),
    "-Wl,-z,max-page-size=4096",
]
STUB_SOURCES = ("stub.c", "patched_call.c")
STUB_FLAGS = [
    *FREESTANDING,
    *("-fpie", "-mfsgsbase", "-fno-asynchronous-unwind-tables", "-static", "-no-pie"),
    *(f"-Wl,--defsym=stub_base={STUB_TEXT:#x}", f"-Wl,--defsym=guest_vdso={GUEST_VDSO:#x}"),
]
VDSO_FLAGS = [
    *FREESTANDING,
    *("-fPIC", "-shared", "-s", "-fasynchronous-unwind-tables", "-Wl,--eh-frame-hdr"),
    *("-Wl,-soname=linux-vdso.so.1", "-Wl,--hash-style=both", "-Wl,-Bsymbolic"),
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
        layout = (ROOT / RESTRICTED / "layout.h").read_text()
        for name, value in (("STUB_TEXT", STUB_TEXT), ("GUEST_VDSO", GUEST_VDSO)):
            if f"#define {name} {value:#x}\n" not in layout:
                raise SystemExit(f"polynix: {name} in setup.py and layout.h differ")
        target = self.stub_path()
        target.parent.mkdir(parents=True, exist_ok=True)
        vdso = Path(self.build_temp).resolve() / "vdso"
        vdso.parent.mkdir(parents=True, exist_ok=True)
        self.link("vdso", [*VDSO_FLAGS], ["vdso.c"], vdso)
        self.link("stub", [*STUB_FLAGS, f'-DVDSO_IMAGE="{vdso}"'], STUB_SOURCES, target)
        target.chmod(0o755)

    def link(self, name: str, flags: list[str], program: Sequence[str], target: Path) -> None:
        command = [*compiler(), *flags, f"-Wl,-T,{RESTRICTED / f'{name}.ld'}", "-o", str(target), *(str(RESTRICTED / file) for file in program)]
        if subprocess.run(command, cwd=ROOT).returncode != 0:
            raise SystemExit(f"polynix: the C compiler could not build the {name} (see above)")

    def get_outputs(self) -> list[str]:
        return [*super().get_outputs(), str(self.stub_path())]


def sources(*patterns: str) -> list[str]:
    return sorted(str(path.relative_to(ROOT)) for pattern in patterns for path in ROOT.glob(pattern))


def extension(name: str, files: list[str], depends: list[str]) -> Extension:
    return Extension(name, files, depends=depends, extra_compile_args=["-O2", "-std=gnu11", "-Wall", "-Wextra", "-Wno-unused-parameter"])


restricted = [path for path in sources("addrspace/restricted/*.c") if Path(path).name not in (*STUB_SOURCES, "vdso.c")]
extensions = [
    extension("polynix.addrspace._restricted", restricted, sources("addrspace/restricted/*.h")),
    extension("polynix.addrspace._usercopy", sources("addrspace/usercopy/*.c"), sources("addrspace/usercopy/*.h")),
    extension("polynix.ipc._atomics", ["ipc/_atomics.c"], []),
]

setup(ext_modules=extensions, cmdclass={"build_ext": BuildExtensions})
