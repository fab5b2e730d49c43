"""What a user's Python brings into a kernel: hooks over the Scripting protocol, devices and file systems as classes.

``polynix.scripting`` is the public name of what users write with.
"""
