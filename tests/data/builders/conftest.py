"""Small corpora in the layouts of the true ones: tables as published, recordings as files of a few bytes."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def corpus(tmp_path) -> Callable[[str], Path]:
    """The folder of a small corpus, by the name of its builder."""

    def make(name: str) -> Path:
        folder = tmp_path / "corpora" / name
        folder.mkdir(parents=True)
        LAYOUTS[name](folder)
        return folder

    return make


def put(folder: Path, *names: str) -> None:
    """Recordings. Builders look at names alone."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"recording")


def vggsound(folder: Path) -> None:
    (folder / "vggsound.csv").write_text(
        "---g-f_I2yQ,1,people marching,test\n"
        "--0PQM4-hqg,30,waterfall burbling,train\n"
        '-5GcZwBvBdI,20,"female speech, woman speaking",train\n'
        "-5GcZwBvBdI,20,people whispering,train\n"  # the same clip again
        "0Tc8sOU6Jzc,120,playing 二胡,train\n"  # ends in the middle of an upload
        "_offline_00,10,cat purring,train\n"
        "_offline_00,10,cat purring,test\n"
    )
    put(folder, "scratch/video/---g-f_I2yQ_000001.mp4", "vggsound_00/--0PQM4-hqg_000030.mp4")
    put(folder, "vggsound_01/-5GcZwBvBdI_000020.mp4", "vggsound_01/-5GcZwBvBdI_000020.wav", "uploads/0Tc8sOU6Jzc.webm")


def audiocaps(folder: Path) -> None:
    header = "audiocap_id,youtube_id,start_time,caption\n"
    (folder / "train.csv").write_text(
        header + '91139,r1nicOVtvkQ,130,"A woman talks nearby, as water ""pours"""\n'
        "58146,UDGBjjwyaqE,20,Ein Hund bellt laut über dem Tal\n"
        "11542,3NX4HaOVBoo,240,\n"
        "99999,_offline_00,0,Nobody hears this\n"
    )
    (folder / "val.csv").write_text(
        header + "".join(f"{n},vfY_TJq7n_U,130,Rustling number {n % 4}\n" for n in range(97150, 97155))
    )
    (folder / "test.csv").write_text(
        header + "".join(f"{n},7fmOlUlwoNg,{t},A clock ticks {n} times\n" for n in range(5) for t in (0, 10))
    )
    put(folder, "audio/r1nicOVtvkQ_130.flac", "audio/Y3NX4HaOVBoo.wav", "videos/UDGBjjwyaqE.mp4")
    put(folder, "audio/YvfY_TJq7n_U_130.000_140.000.wav", "audio/7fmOlUlwoNg_0.wav", "audio/7fmOlUlwoNg_10000.wav")


def audioset(folder: Path) -> None:
    comments = (
        "# Segments csv created Sun Mar  5 10:54:31 2017\n"
        "# num_ytids=3, num_segs=3, num_unique_labels=3, num_positive_labels=4\n"
        "# YTID, start_seconds, end_seconds, positive_labels\n"
    )
    (folder / "balanced_train_segments.csv").write_text(
        comments + '--PJHxphWEs, 30.000, 40.000, "/m/09x0r,/t/dd00088"\n'
        '--ZhevVpy1s, 50.000, 60.000, "/m/012xff"\n'
        '-offline-00, 0.000, 10.000, "/m/012xff"\n'
    )
    (folder / "eval_segments.csv").write_text(
        comments + '--4gqARaEJE, 0.000, 10.000, "/m/068hy,/m/0bt9lr"\n--BfvyPmVMo, 20.000, 23.500, ""\n'
    )
    (folder / "class_labels_indices.csv").write_text(
        "index,mid,display_name\n"
        '0,/m/09x0r,"Speech"\n16,/t/dd00088,"Gush"\n494,/m/012xff,"Toothbrush"\n'
        '72,/m/068hy,"Domestic animals, pets"\n74,/m/0bt9lr,"Dog"\n'
    )
    put(folder, "bal_train/--PJHxphWEs.flac", "bal_train/Y--ZhevVpy1s.wav")
    put(folder, "eval/--4gqARaEJE_0_10.mp4", "uploads/--BfvyPmVMo.mp4")


def wavcaps(folder: Path) -> None:
    def write(name: str, content: dict) -> None:
        path = folder / "json_files" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))

    def data(*clips: dict) -> dict:
        return {"num_captions_per_audio": 1, "data": list(clips)}

    write("AudioSet_SL/as_final.json", data(
        {"id": "Yb0RFKhbpFJA.wav", "caption": "Wind and a man speak, then \"thunder\".", "duration": 10.0},
        {"id": "Y-test-clip0.wav", "caption": "Tested on by AudioCaps.", "duration": 10.0},
    ))  # fmt: skip
    write("BBC_Sound_Effects/bbc_final.json", data(
        {"id": "NHU05104134", "caption": "Ein Kauz am Café ☕.", "category": "", "duration": 61.2},
    ))  # fmt: skip
    write("FreeSound/fsd_final.json", data(
        {"id": "180913", "caption": "  Rain falls. ", "duration": 3.5, "author": "a", "tags": ["rain"]},
        {"id": "180914", "caption": "", "duration": 1.0},
        {"id": "180915", "caption": "No file.", "duration": 1.0},
        {"id": "2", "caption": "Tested on by ESC-50.", "duration": 1.0},
    ))  # fmt: skip
    write("SoundBible/sb_final.json", data({"id": "2", "caption": "A different 2.", "title": "2", "duration": 1.0}))
    write("blacklist/blacklist_exclude_test_ac.json", {"AudioSet": ["Y-test-clip0.wav"], "FreeSound": []})
    write("blacklist/blacklist_exclude_ub8k_esc50_vggsound.json", {"AudioSet": [], "FreeSound": ["2"]})
    put(folder / "Zip_files", "AudioSet_SL/waveforms/AudioSet_SL_flac/Yb0RFKhbpFJA.flac")
    put(folder / "Zip_files", "AudioSet_SL/waveforms/AudioSet_SL_flac/Y-test-clip0.flac")
    put(folder / "Zip_files", "BBC_Sound_Effects/NHU05104134.flac", "SoundBible/2.flac")
    put(folder / "Zip_files", *(f"FreeSound/{name}.flac" for name in (180913, 180914, 2)))


def kling_audio_eval(folder: Path) -> None:
    (folder / "Kling-Audio-Eval.csv").write_text(
        "Video,Video Caption,Audio,Audio-Caption,Labels\n"
        'video/0001.mp4,"A dog runs, then stops.",audio/0001.wav,"A dog ""barks"" twice.",Dog;Bark\n'
        "video/0002.mp4,一辆红色汽车驶过,audio/0002.wav,发动机轰鸣,\n"
        "0003.mp4,A silent lake.,,Wind.,\"Wind, Water\"\n"
        "video/0004.mp4,Its sound is gone.,audio/0004.wav,Nothing.,Dog\n"
        "video/0005.mp4,It is gone itself.,audio/0005.wav,Nothing.,Dog\n"
    )  # fmt: skip
    put(folder, *(f"video/000{n}.mp4" for n in (1, 2, 3, 4)), "audio/0001.wav", "audio/0002.wav", "audio/0005.wav")


def clotho(folder: Path) -> None:
    header = "file_name,caption_1,caption_2,caption_3,caption_4,caption_5\n"
    (folder / "clotho_captions_development.csv").write_text(
        header + ' Ambience Birds.wav,Birds chirp.,"Birds tweet, happily.",Birds call.,  Birds sing. ,Birds.\n'
        "rain [1].wav,a,b,c,d,e\nMissing.wav,a,b,c,d,e\n"
    )
    (folder / "clotho_captions_evaluation.csv").write_text(header + "Santa Motor.wav,A motor,It runs,c,,e\n")
    put(folder, "clotho_audio_development/development/ Ambience Birds.wav", "clotho_audio_development/rain [1].wav")
    put(folder, "clotho_audio_evaluation/Santa Motor.wav")


def fsd50k(folder: Path) -> None:
    (folder / "FSD50K.ground_truth").mkdir()
    (folder / "FSD50K.ground_truth/dev.csv").write_text(
        "fname,labels,mids,split\n"
        '64760,"Electric_guitar,Guitar,Music","/m/02sgy,/m/0342h,/m/04rlf",train\n'
        '345111,"Crying_and_sobbing,Human_voice","/m/0463cq4,/m/09l8g",val\n'
        '16399,"Rain,Water","/m/06mb1,/m/0838f",train\n'
    )
    (folder / "FSD50K.ground_truth/eval.csv").write_text('fname,labels,mids\n37199,"Bark,Dog","/m/05tny_,/m/0bt9lr"\n')
    (folder / "FSD50K.ground_truth/vocabulary.csv").write_text("0,Bark,/m/05tny_\n")
    put(folder, "FSD50K.dev_audio/64760.wav", "FSD50K.dev_audio/345111.wav", "FSD50K.eval_audio/37199.wav")


def greatest_hits(folder: Path) -> None:
    data = folder / "vis-data"
    put(data, "2015-02-16-16-49-06_denoised.mp4", "2015-02-16-16-49-06_denoised.wav", "2015-02-16-16-49-06_mic.mp4")
    put(data, "2015-03-28-18-57-21_mic.mp4", "2015-03-28-18-57-21_denoised.wav", "2015-09-29-14-06-55_denoised.mp4")
    (data / "2015-02-16-16-49-06_times.txt").write_text(
        "1.013 rock hit static\n2.5 wood scratch None\n3.25 rock hit scatter\n4.0 None hit None\n\n"
    )
    (data / "2015-03-28-18-57-21_times.txt").write_text("0.5 None None None\n")
    (data / "2015-09-29-14-06-55_times.txt").write_text("7.125 plastic-bag hit deform\n")
    (folder / "train.txt").write_text("2015-02-16-16-49-06\n2015-03-28-18-57-21\n2015-01-01-00-00-00\n")
    (folder / "test.txt").write_text("2015-09-29-14-06-55\n")


def epic_sounds(folder: Path) -> None:
    header = "annotation_id,participant_id,video_id,start_timestamp,stop_timestamp,description,class,class_id\n"
    (folder / "EPIC_Sounds_train.csv").write_text(
        header + "P01_01_0,P01,P01_01,00:00:02.466,00:00:05.315,mechanical pressing noise,beep,30\n"
        "P02_01_7,P02,P02_01,01:02:03.500,01:02:04.000,paper rustle,rustle,4\n"
    )
    (folder / "EPIC_Sounds_validation.csv").write_text(
        header + "P01_11_0,P01,P01_11,00:00:02.069,00:00:02.993,clang / clatter,ceramic / wood collision,34\n"
        "P01_11_8,P01,P01_11,00:00:53.919,00:00:54.879,unlabelled,metal / wood collision,10\n"
    )
    put(folder, "EPIC-KITCHENS/P01/videos/P01_01.MP4", "EPIC-KITCHENS/P01/videos/P01_11.MP4")


LAYOUTS = {
    "audiocaps": audiocaps,
    "audioset": audioset,
    "clotho": clotho,
    "epic_sounds": epic_sounds,
    "fsd50k": fsd50k,
    "greatest_hits": greatest_hits,
    "kling_audio_eval": kling_audio_eval,
    "vggsound": vggsound,
    "wavcaps": wavcaps,
}
