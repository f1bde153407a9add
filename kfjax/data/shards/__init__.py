"""Features on disk: a folder of array_record shards, what they were made with, and the parts used again."""
