"""python3 itself: start, arithmetic, files, subprocess of itself."""

import os
import subprocess
import sys

from check import main, note


def case_version():
    note(sys.version_info[:2], sys.platform, sys.executable)


def case_files():
    with open("a", "w") as f:
        f.write("hello\n" * 1000)
    assert os.stat("a").st_size == 6000
    with open("a") as f:
        assert sum(1 for _ in f) == 1000
    os.rename("a", "b")
    note(os.listdir("."))


def case_subprocess_of_itself():
    note(subprocess.run([sys.executable, "-c", "print(6 * 7)"], capture_output=True, text=True, check=True).stdout)


if __name__ == "__main__":
    main(globals())
