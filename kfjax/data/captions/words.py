"""Words that captions of sounds are made of, by kind; a word that is not here has no kind."""

from __future__ import annotations

_SOURCES = """
alarm ambulance animal audience baby ball band basketball bat bee bell bicycle bird boat bottle boy bus camera can car
cat chainsaw chicken child children choir clock computer cow cricket crow crowd cup cymbal dog door drawer
drill drum duck engine explosion fan faucet fire firework flute footsteps frog girl glass goat goose guitar gun
hammer harp helicopter hen horn horse insect instrument kettle key keyboard knife lamb lawnmower leaf lion machine man
microwave monkey motor motorboat motorcycle mouse music owl paper people person phone piano pig pigeon plane pump
radio rain rat river rooster saw scooter sheep ship shoe shower siren skateboard snake spray stone stream subway
telephone thunder tiger toilet tool toy tractor traffic train trombone truck trumpet tv typewriter vacuum vehicle
violin voice washer water waterfall wave whistle wind wolf woman wood
"""
_SCENES = """
airport bathroom bar beach building cafe cave church city classroom countryside factory farm field forest garage garden
gym hall highway home hospital house indoors jungle kitchen lake market meadow mountain ocean office outdoors park
playground pool pub restaurant road room school sea shop stadium stage station street studio theater theatre tunnel
underwater village yard zoo
"""
_ACTIONS = """
applaud bang bark beat beep blare bleat blow boil bounce break breathe burn burp buzz chatter cheer chirp chime chop
clang clank clap clatter click clink close cluck coo cough crack crackle crash
creak cry crow crumple crunch cut drill drip
drive drop drum echo explode fall fire fizz flap flow flush fly fry gallop giggle growl grunt gurgle hammer hiss hit
hoot howl hum idle jingle knock laugh land meow mix moan moo neigh oink open pass pat peal peck play plop pop pound
pour purr quack rattle rev ride ring rip roar roll rumble run rush rustle saw scrape scratch scream screech shatter
shoot shout shuffle shut sing sizzle skid slam slap slide slosh smash snap sneeze snore snort sob speak spin splash
splatter spray squawk squeak squeal stomp strike strum swing swish talk tap tear thud thump thunder tick toll trickle
trot tweet type vibrate wail walk warble wash whack wheeze whimper whine whir whisper whistle whoosh work yell yelp
"""
_EMOTIONS = """
aggressive angry anxious calm cheerful dramatic eerie excited fearful gentle happy joyful lively melancholic mournful
nervous peaceful playful romantic sad scared serious solemn suspenseful tense upset
"""
_GENDERS = "boy boys female females gentleman girl girls he her his lady male males man men she woman women"
_MODIFIERS = """
big brief close constant continuous deep distant dull faint fast harsh heavy high light long loud low metal metallic
muffled nearby quick quiet rapid rhythmic rough sharp short slow small soft steel steady strong sudden weak wet wooden
"""
#: Kind -> its words, as they stand in a dictionary.
KINDS = {
    "sources": frozenset(_SOURCES.split()),
    "actions": frozenset(_ACTIONS.split()),
    "scenes": frozenset(_SCENES.split()),
    "emotions": frozenset(_EMOTIONS.split()),
    "genders": frozenset(_GENDERS.split()),
    "modifiers": frozenset(_MODIFIERS.split()),
}
#: What does not follow the rules of `bases`.
IRREGULAR = {
    "blew": "blow", "blown": "blow", "broke": "break", "children": "child", "drove": "drive", "fell": "fall",
    "flew": "fly", "footstep": "footsteps", "geese": "goose", "knives": "knife", "leaves": "leaf", "men": "man",
    "mice": "mouse", "ran": "run", "rang": "ring", "sang": "sing", "shot": "shoot", "slid": "slide", "spoke": "speak",
    "struck": "strike", "torn": "tear", "wolves": "wolf", "women": "woman",
}  # fmt: skip
_JOINTS = """
accompanied and after along alongside as before during followed meanwhile or plus then together while with
"""
_COUNTS = """
one two three four five six seven eight nine ten once twice times few many multiple several repeated repeatedly series
continuous continuously constant constantly again
"""
#: Words that join two events, or say that something comes with another.
JOINTS = frozenset(_JOINTS.split())
#: Words that say how often, or that it does not end.
COUNTS = frozenset(_COUNTS.split())


def bases(word: str) -> list[str]:
    """What a word may be a form of, itself first: "running" -> ["running", "run", ...]; some are no words."""
    found = [word, *filter(None, [IRREGULAR.get(word)])]
    for ending, others in (("ies", ("y",)), ("ing", ("", "e")), ("ed", ("", "e")), ("es", ("", "e")), ("s", ("",)),
                           ("ly", ("",))):  # fmt: skip
        if word.endswith(ending) and len(word) > len(ending) + 1:
            stem = word[: -len(ending)]
            found += [stem + other for other in others]
            if ending in ("ing", "ed") and len(stem) > 2 and stem[-1] == stem[-2]:
                found.append(stem[:-1])
    return found
