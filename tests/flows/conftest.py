import cisray.flows  # noqa: F401  sets what Ray reads when it is first imported, which a test may do before cisray does
