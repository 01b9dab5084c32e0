"""What runs inside of inference servers; nothing here needs this package, which a server need not have installed."""
