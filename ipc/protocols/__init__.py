"""The protocols between runner, containers and their clients: Starnix's and the component framework's (``fuchsia.*``), and polynix's own.

One module each; a process imports those that it speaks.
"""
