"""What processes of polynix say to each other, and with what.

Objects (``objects``) are Zircon's: channels, event pairs, counters, memory, reached through handles with rights, waited for by their
signals. A ``session`` with the realm's broker lets them travel between processes: ``record`` says what the two sides say, ``wire`` carries
it, the ``shared_arena`` holds the words of counters and events. ``zmq_link`` is a channel to a peer outside of any realm.
``fidl`` is the format of messages, ``bindings`` makes typed protocols of it, with ``client``,
``server`` and ``dump``; ``protocols`` are those of runner and containers. Imports nothing else of polynix.
"""
