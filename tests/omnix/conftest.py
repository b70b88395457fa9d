"""Run every test that loads a FLUX with each of the host's memory managers."""

import gc
from collections.abc import Iterator

import pytest


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Double the tests that load a model, except for those that give a reason against it."""
    known, asked = vars(metafunc.module), set(metafunc.fixturenames)
    loads = ("load_flux" in known and {"case", "tmp_path"} & asked) or ("load_base" in known and "kind" in asked)
    if loads and not metafunc.definition.get_closest_marker("ordinary"):
        # The first host that the stubs fit; each test takes two to three times as long as with the ordinary manager.
        dynamic = pytest.param("dynamic", marks=[pytest.mark.since("0.30.0"), pytest.mark.slow])
        metafunc.parametrize("manager", ["ordinary", dynamic], indirect=True, scope="module")


@pytest.fixture(autouse=True, scope="module")
def manager(request: pytest.FixtureRequest) -> Iterator[str]:
    """The memory manager that models are loaded with: the host's own for CPUs, or DynamicVRAM."""
    import comfy.model_management  # the host is found by now

    # Test files share a process. What pytest keeps of earlier tests (fixtures, tracebacks) may hold a model after the
    # host has lost its patcher. The host calls that a leak. OmniX keeps no model: test_a_model_is_let_go_at_once.
    gc.collect()
    comfy.model_management.current_loaded_models.clear()
    chosen = getattr(request, "param", "ordinary")
    with pytest.MonkeyPatch.context() as monkeypatch:
        if chosen == "dynamic":
            from dynamic import use_dynamic

            use_dynamic(monkeypatch)
        yield chosen


@pytest.fixture(autouse=True)
def live_models(manager: str) -> None:
    """Drop what the host calls leaked: it would collect all garbage at every load of this process, for seconds."""
    import comfy.model_management

    loaded = comfy.model_management.current_loaded_models
    loaded[:] = [each for each in loaded if not each.is_dead()]
