"""``polynix trace``: hand a kernel a ring to record into, and decode afterwards what it holds, for Perfetto or as text."""
