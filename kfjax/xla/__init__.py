"""For the compiler: where arrays lie (`sharding`), compiled programs that are kept (`programs`), their `memory`."""
