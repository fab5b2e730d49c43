"""The command line (``start``, ``cli``) and the tools behind it: one module or package for each command. They look at kernels from outside."""
