"""Generated audio-visual scenes with exact ground truth, from a seed: video, sound, caption, events.

scene = make_scene(3)
scene.caption, scene.events        # what is heard, and when, where, how loud
scene.frames((64, 64))             # uint8 [200, 64, 64, 3]
scene.sound()                      # float32 [352800, 2] at 44,100 Hz
write_mp4(scene, "scene.mp4")
"""

from kfjax.scenes.corpus import Bucket, Corpus, render_corpus
from kfjax.scenes.world.event import MATERIALS, SOURCES, STRUCK, SUSTAINED, Event
from kfjax.scenes.world.recipes import RECIPES, SPLITS
from kfjax.scenes.world.scene import Scene, make_scene, write_mp4

__all__ = [
    "MATERIALS",
    "RECIPES",
    "SOURCES",
    "SPLITS",
    "STRUCK",
    "SUSTAINED",
    "Bucket",
    "Corpus",
    "Event",
    "Scene",
    "make_scene",
    "render_corpus",
    "write_mp4",
]
