#!/bin/sh
# mypy over the package as it is installed: a tree of links stands for the package-dir mapping of pyproject.toml, which mypy can't follow.
set -eu
cd "$(dirname "$0")/.."
bin=$PWD/${1:-.venv/bin}
tree=build/typecheck
rm -rf $tree
mkdir -p $tree/polynix
for file in polynix/*; do ln -s "$PWD/$file" "$tree/polynix/"; done
for folder in addrspace ipc kernelproc runner tools; do ln -s "$PWD/$folder" "$tree/polynix/$folder"; done
cd $tree
exec "$bin/mypy" --config-file ../../pyproject.toml --cache-dir ../../.mypy_cache -p polynix
