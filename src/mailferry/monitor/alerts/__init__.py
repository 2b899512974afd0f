"""Word of what needs a person: once for each change, never a storm, tried again until it is delivered."""
