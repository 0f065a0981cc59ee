"""The doors: one thin file a function. Each translates between an AWS event and the core, and decides nothing."""
