"""Which running kernels a tool looks at: all that this user can see, or the one that was named. The one place that turns a name into a kernel."""

from __future__ import annotations

from polynix.kernelproc.shared_region import RegionView, running_kernels


class NoKernel(Exception):
    """No running kernel, or not the one that was asked for; the text is one line."""


def kernel_pid(name: str) -> int:
    """The kernel process that ``name`` means: its process id, or a container of the user's runner. Errors: NoKernel."""
    if name.isdigit():
        return int(name)
    from polynix.runner.client import Runner
    from polynix.runner.errors import ContainerError

    try:
        with Runner() as runner:
            kernel = runner.inspect(name)["kernel"]
    except ContainerError as error:
        raise NoKernel(str(error)) from None
    if kernel is None:
        raise NoKernel(f"container {name} is not running")
    return int(kernel["pid"])


def selected_kernels(name: str | None) -> list[tuple[int, RegionView]]:
    """Process ids and regions of the kernels that ``name`` selects, all of them for None. Errors: NoKernel for a name that means none."""
    pids = running_kernels() if name is None else [kernel_pid(name)]
    views = []
    for pid in pids:
        try:
            views.append((pid, RegionView(pid)))
        except Exception as error:
            if name is not None:
                raise NoKernel(f"no polynix kernel with pid {pid}") from error
    return views


def one_kernel(name: str | None) -> int:
    """The kernel that ``name`` selects, or the only one that runs. Errors: NoKernel."""
    views = selected_kernels(name)
    if not views:
        raise NoKernel("no polynix kernel runs")
    if len(views) > 1:
        raise NoKernel(f"{len(views)} kernels run: say which ({', '.join(str(pid) for pid, _ in views)})")
    return views[0][0]
