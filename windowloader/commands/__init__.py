"""Commands, one a module: each has ``register(app)``, and is named in `windowloader.cli.COMMANDS`."""
