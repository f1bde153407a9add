"""From what a person asks for to sound, by the spine `kfjax.generation`.

A `Request` holds the arguments, checked (`request`), with the recording or the reference that is given (`recording`).
The `Maker` makes it in one pass, or window by window (`windows` says where they lie and in which order they are
sampled, `longform` reads, encodes and decodes them); `mastering` limits peaks and sets the loudness.
"""
