"""Hooks on system calls: observe, fail, delay, shorten, kill at, or call a Python function.

A hooked call's entry in the table of system calls is replaced by one that asks the hooks first, so that calls without a hook, and kernels without one, pay
nothing. Rules are data (:mod:`polynix.kernelproc.hook_rule`); a rule's function is the user's own code and runs in the kernel process with the user's rights:
it is trusted as the rest of the kernel is, and guests can't reach it except through the calls that it answers.
"""
