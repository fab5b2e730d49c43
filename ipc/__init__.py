"""What processes of polynix say to each other, and with what.

Objects (``objects``) are Zircon's: channels, event pairs, counters, memory, reached through handles with rights, waited for by their
signals. They live in one process; ``shared_objects`` puts counters and event pairs into shared memory, ``zmq_link`` lets a channel's
other end be in another process. ``fidl`` is the format of messages, ``bindings`` makes typed protocols of it, with ``client``,
``server`` and ``dump``; ``protocols`` are those of runner and containers. Imports nothing else of polynix.
"""
