"""How a series is written anew: layout, values, journal, stores."""
