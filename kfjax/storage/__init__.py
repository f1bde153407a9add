"""Files written whole or not at all, with digests (`disk`); parameters and training states in them (`checkpoint`)."""
