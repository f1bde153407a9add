"""What networks are written with: modules as functions over plain dicts (`module`), and their layers (`layers`)."""
