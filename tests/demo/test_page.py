"""`kfjax demo` as its visitors see it: a real server, a real Chromium. What it takes is named where it is missing."""

import importlib.util
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from kfjax import media
from tests.tiny import media_files as files
from tests.tiny.browser import chromium, serving
from tests.tiny.system import write_model

RATE_HZ = 44100
SECONDS = 2  # of every clip and sound, but where the length is what is tested: what is compiled for one does for all
WIDE_TABLE = "\n".join(f"|{'|'.join(cells)}|" for cells in (["of"] * 9, ["-"] * 9, ["numbers without end"] * 9))

if importlib.util.find_spec("gradio") is None:
    pytest.skip("gradio is not installed: pip install '.[demo]'", allow_module_level=True)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    model = write_model(folder / "tiny")
    (model / "MODEL_CARD.md").write_text(f"{WIDE_TABLE}\n")
    limits = ["--max-seconds", str(SECONDS), "--max-megabytes", "1"]
    with serving(folder / "served", "--model", str(model), *limits) as running:
        yield running
    assert running.process.returncode == 0
    assert list(running.temporary.iterdir()) == [], "nothing is left when the server has ended"
    assert running.said == ""


@pytest.fixture(scope="module")
def ann():
    with chromium() as visitor:
        yield visitor


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return files.write_numbered(tmp_path_factory.mktemp("clips") / "clip.mp4", files.steady(25 * SECONDS, 25))


def samples(data: bytes, path: Path) -> int:
    path.write_bytes(data)
    return len(media.read_audio(path, RATE_HZ))


def test_a_clip_gets_its_sound(server, ann, clip, tmp_path):
    """Upload, press, play: the film runs, and its sound is exactly as long as the film."""
    ann.visit(server)
    ann.upload(clip)
    ann.write("a ball bounces")
    ann.press()
    made = ann.result("1. a ball bounces, seed 0")
    assert samples(made, tmp_path / "a.mp4") == SECONDS * RATE_HZ
    assert files.picture_packets(tmp_path / "a.mp4")[0] == files.picture_packets(clip)[0]
    film = "document.querySelector('#result .film video')"
    ann.driver.execute_script(f"{film}.play()")
    ann.wait(lambda: ann.driver.execute_script(f"return {film}.currentTime > 0.5"), "the film to run")
    assert ann.driver.execute_script(f"return {film}.duration") == pytest.approx(SECONDS, abs=0.05)
    assert ann.driver.execute_script(f"return {film}.webkitAudioDecodedByteCount") > 0
    assert ann.wait(lambda: ann.find("#result .picture img"), "its picture")[0].size["width"] > 300
    assert ann.overflow() <= 0
    assert not [url for url in ann.requests() if not url.startswith(server.url)], "all from this server"


def test_history_versions_and_prompts_alone(server, ann, tmp_path):
    """Each version is a take of its own, and earlier ones can be heard again."""
    ann.visit(server)
    ann.write("rain on a roof")
    ann.find("#settings button")[0].click()
    ann.wait(lambda: ann.find("#samples input[type=number]"), "the settings")
    ann.write("2", "#samples")
    ann.write("5", "#seed")
    ann.press()
    first = ann.result("1. rain on a roof, seed 5, version 1")
    assert samples(first, tmp_path / "a.wav") == SECONDS * RATE_HZ
    assert ann.texts("#takes label") == ["2. rain on a roof, seed 5, version 2", "1. rain on a roof, seed 5, version 1"]
    ann.find("#takes label")[0].click()
    assert ann.result("2. rain on a roof, seed 5, version 2") != first


def test_bad_files_and_empty_wishes_get_a_line(server, ann, tmp_path):
    """No trace, nothing of the server's folders; the page and the server go on."""
    (tmp_path / "text.mp4").write_text("words, not pictures\n" * 100)
    files.write_numbered(tmp_path / "long.mp4", files.steady(75, 25))
    (tmp_path / "large.mp4").write_bytes(bytes(1_200_000))
    ann.visit(server)
    ann.press()
    ann.message("There is nothing to go by: give a clip, a prompt, or both.")
    for name, words in [("text", "text.mp4: is not a readable video"), ("long", "lasts 3.0 s, at most 2 s")]:
        ann.upload(tmp_path / f"{name}.mp4")
        said = ann.message(words)
        assert str(server.temporary) not in said and "Traceback" not in said
    ann.upload(tmp_path / "large.mp4")
    ann.message("exceed the maximum allowed size of 1.0 Mb")
    ann.write("wind")
    ann.press()
    assert ann.result("1. wind, seed 0")


def damaged(clip: Path, path: Path) -> Path:
    """The clip with an intact index, and noise for pictures."""
    data = bytearray(clip.read_bytes())
    start = data.index(b"mdat")
    size = int.from_bytes(data[start - 4 : start])
    data[start + 4 : start - 4 + size] = np.random.default_rng(0).bytes(size - 8)
    path.write_bytes(data)
    return path


def test_after_a_failure_the_page_is_as_before(server, ann, clip, tmp_path):
    """Damaged pictures, then a defect on the server: each gets a line, the button is back, the takes are there."""
    fail = server.temporary / "fail"
    ann.visit(server)
    ann.write("wind")
    ann.press()
    ann.result("1. wind, seed 0")
    ann.upload(damaged(clip, tmp_path / "clip.mp4"))
    ann.wait(lambda: ann.find("#clip video"), "the clip")
    try:
        for number, words in enumerate(("is damaged", "Something went wrong on the server"), 2):
            ann.press()
            said = ann.message(words)
            assert str(server.temporary) not in said and "Traceback" not in said
            ann.wait(lambda: ann.texts("#make") == ["Make sound"] and ann.find("#make")[0].is_enabled(), "the button")
            assert not ann.texts("#cancel") and len(ann.texts("#takes label")) == number - 1
            assert "Error" not in ann.texts("#result")[0], "nothing covers the take"
            ann.find("#clip button[aria-label='Clear']")[0].click() if number == 2 else fail.unlink()
            ann.press()
            ann.result(f"{number}. wind, seed 0")
            fail.touch()
    finally:
        fail.unlink(missing_ok=True)
    assert "MemoryError" in server.said
    os.truncate(server.log, 0)


def test_cancel(server, ann):
    """While a sound is made: no second one, and an end to the first."""
    hold = server.temporary / "hold"
    ann.visit(server)
    ann.write("a bell")
    hold.touch()
    try:
        ann.press()
        cancel = ann.wait(lambda: ann.texts("#cancel") and ann.find("#cancel"), "the button to cancel")[0]
        assert ann.texts("#make") == ["Making sound …"] and not ann.find("#make")[0].is_enabled()
        ann.write("rain\n")
        ann.message("You have 1 under way already")
        assert ann.texts("#make") == ["Making sound …"]
        cancel.click()
        ann.wait(lambda: ann.texts("#cancel") == ["Cancelling …"], "the answer")
    finally:
        hold.unlink()
    ann.message("Cancelled: nothing was made.")
    ann.wait(lambda: ann.texts("#make") == ["Make sound"], "the button")
    ann.press()
    assert ann.result("1. rain, seed 0")


def test_two_takes_side_by_side(server, ann, clip, tmp_path):
    """With the sound of each alone as a file; a seed by chance; words that are not read."""
    ann.visit(server)
    ann.upload(clip)
    ann.wait(lambda: ann.find("#clip video"), "the clip")
    ann.write("a bell and 老虎")
    unread = lambda place: [line for line in ann.texts(f"{place}.unread, {place} .unread") if "老虎" in line]
    ann.wait(lambda: "老虎" in "".join(ann.texts("#unread")), "the words that are not read, before anything is made")
    ann.find("#settings button")[0].click()
    ann.press()
    ann.result("1. a bell and 老虎, seed 0")
    assert unread("#result") and not ann.texts("#pair")
    ann.find("#random button, button#random")[0].click()
    ann.wait(lambda: ann.find("#seed input")[0].get_property("value") != "0", "a seed by chance")
    ann.write("a bell")
    ann.press()
    seed = ann.find("#seed input")[0].get_property("value")
    ann.result(f"2. a bell, seed {seed}")
    assert not unread("#result")
    ann.wait(lambda: ann.texts("#pair"), "two takes to compare")
    ann.find("#pair button")[0].click()
    names = {"left": "1. a bell and 老虎, seed 0", "right": f"2. a bell, seed {seed}"}
    sizes = [ann.wait(lambda side=side: ann.find(f"#{side} video"), "a film")[0].rect for side in names]
    assert sizes[0]["y"] == sizes[1]["y"] and sizes[0]["x"] + sizes[0]["width"] <= sizes[1]["x"]
    for side, name in names.items():
        ann.wait(lambda side=side, name=name: name in ann.texts(f"#{side} .film label"), name)
        assert samples(ann.saved_by(f"#{side} .wav"), tmp_path / "a.wav") == SECONDS * RATE_HZ
    assert ann.overflow() <= 0


def differing(first: bytes, second: bytes, path: Path) -> np.ndarray:
    """Seconds of the samples in which two .wav differ."""
    waves = []
    for data in (first, second):
        path.write_bytes(data)
        waves.append(media.read_audio(path, RATE_HZ))
    return np.flatnonzero((waves[0] != waves[1]).any(1)) / RATE_HZ


def test_redo_a_span_and_undo(server, ann, tmp_path):
    """The mark is seen on the take; outside of it the new take is the old one, sample for sample; undo goes back."""
    ann.visit(server)
    ann.write("a bell")
    ann.press()
    ann.result("1. a bell, seed 0")
    old = ann.saved_by("#result .wav")
    assert not ann.texts("#undo")
    ann.find("#change button")[0].click()
    ann.wait(lambda: ann.find("#from input[type=number]"), "the marks")
    for selector, seconds in (("#from", "1.5"), ("#to", "1")):
        ann.write(seconds, selector)
    ann.wait(lambda: "1.50 to 1.00 s" in ann.texts("#wave .seconds")[0], "the marks on the wave")
    ann.find("#redo")[0].click()
    ann.message("Marked are 1.5 to 1 s: the end has to be after the beginning.")
    ann.wait(lambda: ann.texts("#make") == ["Make sound"] and ann.find("#redo")[0].is_enabled(), "the buttons")
    ann.write("0.5", "#from")
    ann.wait(lambda: "0.50 to 1.00 s" in ann.texts("#wave .seconds")[0], "the marks on the wave")
    wave, mark = (ann.find(f"#wave {part}")[0].rect for part in ("svg", "rect"))
    assert (mark["x"] - wave["x"]) / wave["width"] == pytest.approx(1 / 4, abs=0.01)
    assert mark["width"] / wave["width"] == pytest.approx(1 / 4, abs=0.01)
    ann.find("#redo")[0].click()
    ann.result("2. a bell, take 1 redone 0.5 to 1 s")
    changed = differing(old, ann.saved_by("#result .wav"), tmp_path / "a.wav")
    assert len(changed) > RATE_HZ / 4 and changed.min() >= 0.48 and changed.max() <= 1.02
    names = {"left": "1. a bell, seed 0", "right": "2. a bell, take 1 redone 0.5 to 1 s"}
    for side, name in names.items():
        ann.wait(lambda side=side, name=name: name in ann.texts(f"#{side} .sound label"), f"{name} on the {side}")
    ann.wait(lambda: ann.find("#undo")[0].is_enabled(), "undo")
    ann.find("#undo")[0].click()
    ann.result("1. a bell, seed 0")
    ann.wait(lambda: not ann.texts("#undo") and not ann.texts("#pair"), "the page as it was")
    assert ann.texts("#takes label") == ["1. a bell, seed 0"] and ann.saved_by("#result .wav") == old


def test_more(server, ann, tmp_path):
    """A recording is changed; a silent reference is a line; music comes with its stems."""
    ann.visit(server)
    ann.find("#more button")[0].click()
    ann.wait(lambda: ann.find("#reference input[type=file]"), "more")
    media.write_wav(tmp_path / "silent.wav", np.zeros((RATE_HZ, 2), np.float32), RATE_HZ)
    ann.find("#reference input[type=file]")[0].send_keys(str(tmp_path / "silent.wav"))
    said = ann.message("silent.wav is silent; give a sound that can be heard")
    assert str(server.temporary) not in said
    ann.wait(lambda: ann.find("#reference input[type=file]"), "the place to be empty again")
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (SECONDS * RATE_HZ, 2)).astype(np.float32)
    media.write_wav(tmp_path / "dog.wav", noise, RATE_HZ)
    ann.find("#reference input[type=file]")[0].send_keys(str(tmp_path / "dog.wav"))
    ann.wait(lambda: "dog.wav" in "".join(server.files()), "the reference")
    ann.write("a bell", "#music")
    ann.write("rain")
    media.write_wav(tmp_path / "cat.wav", noise, RATE_HZ)
    ann.driver.find_element("css selector", "input[type=file]:has(+ #recording)").send_keys(str(tmp_path / "cat.wav"))
    ann.result("1. cat, uploaded")
    ann.press()
    ann.result("2. rain, seed 0")
    lengths = [samples(ann.saved_by(f"#result .{name}"), tmp_path / "a.wav") for name in ("wav", "effects", "music")]
    assert lengths == [SECONDS * RATE_HZ] * 3
    ann.find("#takes label")[1].click()
    ann.result("1. cat, uploaded")
    ann.find("#change button")[0].click()
    ann.wait(lambda: ann.find("#vary"), "the changes")[0].click()
    made = ann.result("3. rain, take 1 varied by 0.5")
    assert samples(made, tmp_path / "a.wav") == SECONDS * RATE_HZ
    ann.driver.get("about:blank")
    ann.wait(lambda: server.files() == {"example.mp4"}, "all files to go")


@pytest.mark.slow  # fast: test_one_after_the_other, test_a_shared_upload and test_history_belongs of test_studio
def test_two_at_once(server, ann, clip, tmp_path):
    """Two people press at the same time, with the same clip: each gets what they asked for, and none the other's."""
    prompts = ("a bell", "footsteps")
    with ann.second_window() as windows:
        for window, prompt in zip(windows, prompts, strict=True):
            ann.look_at(window)
            ann.visit(server)
            ann.upload(clip)
            ann.write(prompt)
        for window in windows:
            ann.look_at(window)
            ann.press()
        sounds = set()
        for window, prompt in zip(windows, prompts, strict=True):
            ann.look_at(window)
            sounds.add(ann.result(f"1. {prompt}, seed 0"))
            assert len(ann.find("#takes label")) == 1
    assert [samples(sound, tmp_path / "a.mp4") for sound in sounds] == [SECONDS * RATE_HZ] * 2
    hers = {f"kfjax-1-a-bell-seed-0.{suffix}" for suffix in ("mp4", "png", "wav")}
    ann.wait(lambda: server.files() == {"clip.mp4", "example.mp4"} | hers, "the files of the closed window to go")
    ann.driver.get("about:blank")
    ann.wait(lambda: server.files() == {"example.mp4"}, "all files to go")


@pytest.mark.slow  # on a busy machine the browser's encoder needs seconds for its first packet
def test_recording(ann, tmp_path):
    """What the (fake) camera sees arrives as a clip that can be used, and goes at once when its window is closed."""
    model = write_model(tmp_path / "tiny")
    with serving(tmp_path / "served", "--model", str(model)) as server, ann.second_window() as (_, window):
        ann.look_at(window)
        ann.visit(server)
        ann.wait(lambda: ann.find("#clip button[aria-label='Capture from camera']"), "the way to it")[0].click()
        ann.wait(lambda: ann.find("#clip [title='grant webcam access'] button"), "the camera")[0].click()
        seen = lambda: ann.driver.execute_script(
            "return document.querySelector(\"[data-testid='webcam-video']\")?.currentTime ?? 0"
        )
        ann.wait(lambda: seen() > 0.5, "a picture")
        ann.wait(lambda: ann.find("#clip [aria-label='start recording']"), "the button to record")[0].click()
        ann.wait(lambda: ann.find("#clip [title='stop recording']"), "the recording")
        started = seen()
        ann.wait(lambda: seen() > started + 6, "seconds to be recorded")
        ann.find("#clip [aria-label='start recording']")[0].click()
        ann.wait(lambda: ann.find("#clip video[src*='file=']"), "the recorded clip")
        [clip] = [path for path in server.folder.rglob("*.webm") if path.is_file()]
        assert media.probe(clip).has_video
        ann.close()
        ann.wait(lambda: server.files() == {"example.mp4"}, lambda: f"the recording to go, there are {server.files()}")


def test_phone(server, ann):
    """One column, no scrolling sideways, and after pressing the result comes first."""
    ann.sit_at(360, 780)
    try:
        ann.visit(server)
        assert ann.overflow() <= 0
        top = lambda selector: ann.find(selector)[0].location["y"]
        assert top("#wish") < top("#result")
        ann.write("a bell rings")
        ann.press()
        ann.result("1. a bell rings, seed 0")
        assert top("#result") < top("#wish")
        assert ann.overflow() <= 0
        ann.find("#card button")[0].click()
        table = ann.wait(lambda: ann.find("#card table"), "the model's card")[0]
        assert table.get_property("scrollWidth") > table.get_property("clientWidth"), "the table scrolls by itself"
        assert ann.overflow() <= 0
    finally:
        ann.sit_at(1280, 900)


def test_nothing_else_can_be_reached(server):
    """Files outside the folder, the framework's other routes, and requests that name a file of the server's."""
    (server.temporary / "secret").write_text("not for visitors")
    try:
        secret = server.temporary / "secret"
        paths = [f"/gradio_api/file={p}" for p in ("/etc/passwd", "../secret", secret, "http://127.0.0.1/")]
        paths += ["/file=/etc/passwd", "/assets/..%2f..%2f..%2f..%2fetc/passwd", "/docs", "/gradio_api/info"]
        assert {server.status(path) for path in paths} <= {403, 404}
        for path in ("/etc/passwd", str(secret), "http://127.0.0.1/a.mp4"):
            data = [{"path": path, "meta": {"_type": "gradio.FileData"}}, "a bell", "", 3, 3, 2, 2, 0, 1, 1]
            for number in range(6):
                body = json.dumps({"fn_index": number, "session_hash": "abc", "data": data}).encode()
                assert server.status("/gradio_api/queue/join", body) == 403
        assert server.status("/") == 200
    finally:
        secret.unlink()


@pytest.mark.slow  # fast: its parts in test_page_wiring, the model in test_pipeline_built_in
def test_the_built_in_model(ann, tmp_path):
    """An example of the page, on the model that the command starts with; SIGTERM ends it and leaves nothing."""
    with serving(tmp_path / "served", PICTURES="1") as server:
        ann.visit(server)
        assert "small world" in ann.texts("#head")[0]
        ann.wait(lambda: ann.find("#examples .gallery-item"), "the examples")[0].click()
        ann.wait(lambda: ann.find("#clip video"), "the example's clip")
        ann.find("#settings button")[0].click()
        ann.wait(lambda: ann.find("#seconds input[type=number]"), "the settings")
        ann.write("1", "#seconds")
        ann.press()
        made = ann.result("1. glass balls fall on the ground, seed 0")
        assert samples(made, tmp_path / "a.mp4") == RATE_HZ
        assert ann.wait(lambda: ann.find("#result .picture img"), "its picture")[0].size["width"] > 300
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(timeout=30) == 0
        assert list(server.temporary.iterdir()) == [] and server.said == ""
