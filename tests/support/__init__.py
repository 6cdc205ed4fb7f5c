"""What the tests lean on: clocks, configs, messages, and real servers. One file a thing."""
