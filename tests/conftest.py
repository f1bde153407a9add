"""What every test runs under: eight fake CPU devices, no silent broadcasting between ranks, no network.

The environment is set before jax is first imported, and inherited by the commands that tests start.
"""

import ctypes
import gc
import os
import secrets
import socket
import sys
import tempfile
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

#: Compiling is most of the tests' time, and nearly all of that optimisation, which no test's figure depends on. Without
#: the fusion emitters, which jaxlib 0.12 can't do without, a program is compiled nine times as fast. Splitting it for
#: several threads would cost a tenth more, and every core has a worker already.
QUICK = [
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
    "--xla_cpu_parallel_codegen_split_count=1",
]
if version("jaxlib").startswith("0.10."):
    QUICK.append("--xla_cpu_use_fusion_emitters=false")

# A module is compiled once for all processes, also where the environment says otherwise.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# What the environment says comes last, and wins.
own, given = ["--xla_force_host_platform_device_count=8", *QUICK], os.environ.get("XLA_FLAGS", "").split()
# A worker is given its parent's. Once each: programs in the cache are keyed by them.
os.environ["XLA_FLAGS"] = " ".join([*(flag for flag in own if flag not in given), *given])
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
# Programs compiled by an earlier run, or by another worker, are read back.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(tempfile.gettempdir(), f"kfjax-tests-{os.getuid()}")))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("MPLBACKEND", "agg")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# gcsfs asks for it when it is imported, whichever test does so first; the emulated store has no such buckets.
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")

import pytest  # noqa: E402
from jaxtyping import install_import_hook  # noqa: E402

#: Networks whose annotations, shapes too, are checked at every call: they must be imported after the hook is there.
CHECKED = ["kfjax.nn.layers", "kfjax.nn.alignment", "kfjax.generators", "kfjax.flow", "kfjax.codec", "kfjax.encoders"]
if find_spec("beartype"):
    install_import_hook(CHECKED, "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")

#: Resident memory from which compiled programs are dropped at the end of a module: that takes half a second.
FULL_GB = 1.2


def resident_gb():
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:  # not Linux
        return FULL_GB
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e9


@pytest.fixture(autouse=True, scope="module")
def programs_end_with_their_module():
    """Compiled programs are most of a process's memory; few are used by two modules."""
    yield
    if resident_gb() < FULL_GB:
        return
    if "jax" in sys.modules:
        sys.modules["jax"].clear_caches()
    if "kfjax.generation" in sys.modules:
        for stage in ("encode", "sample", "decode"):
            getattr(sys.modules["kfjax.generation"], stage).forget()
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)  # what is free goes back to the system; without, little does


#: Files that take longest, in this order before all others: pytest-xdist hands out whole files, and would begin with
#: those of most tests. A long one at the end keeps one worker busy while the others have nothing to do.
FIRST = (
    "test_page", "test_step", "test_sharding", "test_run_processes", "test_mmdit",
    "test_bigvgan_step", "test_pipeline", "test_make", "test_evaluation", "test_codec_step", "test_bigvgan",
)  # fmt: skip


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers():
    """One more than there are cores: what waits for processes and for the browser leaves a core to others."""
    return (os.cpu_count() or 1) + 1


def pytest_configure(config):
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(items):
    place = {name: k for k, name in enumerate(FIRST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(FIRST)))


def pytest_collection_finish():
    """What is imported by now stays to the end: the garbage collector need not look at it again.

    Tracing makes many objects and few cycles: collected seldom, they cost a tenth less.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 50, 100)
    if "kfjax.train" in sys.modules:
        states_from_one_device()


def states_from_one_device():
    """Of what several devices hold, orbax writes a part from each: of eight fake ones, each part would be a program.

    Processes that tests start do as users' do.
    """
    import jax
    import orbax.checkpoint as ocp

    whole = ocp.type_handlers.ArrayHandler(use_replica_parallel=False)
    ocp.type_handlers.register_type_handler(jax.Array, whole, override=True)


@pytest.fixture(scope="session")
def google():
    """The store behind `gs`; what a test made it do wrong ends with the test."""
    yield from emulated("google", "gcsfs", "gcp_storage_emulator")


@pytest.fixture(scope="session")
def amazon():
    """The store behind `s3`, as `google`."""
    yield from emulated("amazon", "s3fs", "moto")


def emulated(name, *packages):
    missing = [package for package in packages if find_spec(package) is None]  # an import reads variables
    if missing:
        pytest.skip(f"no {', '.join(missing)}: pip install '.[dev]'")
    from tests.tiny import buckets

    with getattr(buckets, name)() as store:
        yield store


@pytest.fixture
def gs(google, tmp_path, monkeypatch):
    """An empty folder in a bucket of an emulator; copies of what is read there go to a folder of the test's own."""
    yield from empty_folder("gs", google, tmp_path, monkeypatch)


@pytest.fixture
def s3(amazon, tmp_path, monkeypatch):
    """As `gs`."""
    yield from empty_folder("s3", amazon, tmp_path, monkeypatch)


def empty_folder(scheme, store, tmp_path, monkeypatch):
    from kfjax.storage.bucket import BucketPath
    from tests.tiny import buckets

    monkeypatch.setenv("KFJAX_CACHE", str(tmp_path / "cache"))
    store.calm()
    yield BucketPath(f"{scheme}://{buckets.NAME}/{secrets.token_hex(4)}")
    store.calm()


@pytest.fixture(params=["gs", "s3"])
def in_bucket(request):
    """An empty folder in a bucket, of either kind."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def store(request, in_bucket):
    """The store behind `in_bucket`."""
    return request.getfixturevalue({"gs": "google", "s3": "amazon"}[in_bucket.scheme])


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Connections leave this machine from no test; loopback and Unix sockets stay open."""

    def guarded(connect):
        def call(sock, address):
            host = address[0] if isinstance(address, tuple) else ""
            if sock.family != socket.AF_UNIX and host not in ("127.0.0.1", "::1", "localhost"):
                raise AssertionError(f"a test opened a connection to {address!r}; tests run without a network")
            return connect(sock, address)

        return call

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, guarded(getattr(socket.socket, name)))
