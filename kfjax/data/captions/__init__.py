"""Captions from what is known of a clip: audio caption, video caption and tags become one sentence.

    fuse = RuleFuser()                                                     # offline
    fuse([Texts(audio="barking", video="a brown dog runs in a park")])     # ["a brown dog barking in a park"]

A fuser is any function from a list of `Texts` to as many captions. `rules.RuleFuser` needs nothing;
`endpoint.EndpointFuser` asks a language model; `table.caption_table` does it for a table.
"""
