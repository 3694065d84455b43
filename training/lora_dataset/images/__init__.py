"""Images of people: where they come from, and what is measured of their faces."""
