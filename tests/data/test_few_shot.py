import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from microtome.core.errors import MicrotomeError
from microtome.data.few_shot import Episodes, images_of
from microtome.data.labelled_images import LabelledImages, Labels

N_CLASSES, N_EACH = 6, 8


def numbered_images() -> LabelledImages:
    """Image ``i`` holds its own number in its first pixel; class ``i // 8``, alphabet ``i // 16``."""
    n = N_CLASSES * N_EACH
    pixels = torch.zeros(n, 1, 4, 4)
    pixels[:, 0, 0, 0] = torch.arange(n) / n
    characters = Labels(np.arange(n) // N_EACH, tuple("abcdef"))
    alphabets = Labels(np.arange(n) // (2 * N_EACH), ("one", "two", "three"))
    names = tuple(map(str, range(n)))
    return LabelledImages(pixels, {"character": characters, "alphabet": alphabets}, names, "numbers")


def episodes(seed=0, **given) -> Episodes:
    settings = {"ways": 3, "shots": 2, "queries": 3, "mean": 0.0, "std": 1.0} | given
    return Episodes(numbered_images(), "character", generator=torch.Generator().manual_seed(seed), **settings)


def image_numbers(x: torch.Tensor) -> list[int]:
    return (x.flatten(1).max(1).values * N_CLASSES * N_EACH).round().int().tolist()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), ways=st.integers(2, 6), shots=st.integers(1, 4), queries=st.integers(1, 4))
def test_no_image_is_drawn_twice_and_labels_mean_classes(seed, ways, shots, queries):
    episode = episodes(seed, ways=ways, shots=shots, queries=queries).draw()
    support, query = image_numbers(episode.support_x), image_numbers(episode.query_x)
    assert len(set(support + query)) == ways * (shots + queries)
    assert episode.support_y.bincount().tolist() == [shots] * ways
    assert episode.query_y.bincount().tolist() == [queries] * ways
    class_of = {}
    pairs = zip(support + query, torch.cat([episode.support_y, episode.query_y]).tolist(), strict=True)
    for number, y in pairs:
        assert class_of.setdefault(y, number // N_EACH) == number // N_EACH
    assert len(set(class_of.values())) == ways


def test_the_same_generator_gives_the_same_episodes_and_classes_change_places():
    first, second = episodes(5), episodes(5)
    drawn = [first.draw() for _ in range(30)]
    for episode in drawn:
        torch.testing.assert_close(second.draw().query_x, episode.query_x)
    of_first = {image_numbers(episode.support_x)[0] // N_EACH for episode in drawn}
    assert of_first == set(range(N_CLASSES))


def test_rotations_are_classes_of_their_own():
    turned = episodes(ways=20, rotations=True).draw()  # six classes have only six without turns
    corners = {
        (int(x.flatten().argmax()), number // N_EACH)
        for x, number in zip(turned.support_x[::2], image_numbers(turned.support_x)[::2], strict=True)
        if number
    }
    assert {place for place, _ in corners} == {0, 3, 12, 15}
    for x, y in ((turned.support_x, turned.support_y), (turned.query_x, turned.query_y)):
        for k in range(20):
            places = {int(each.flatten().argmax()) for each in x[y == k] if each.max() > 0}
            assert len(places) == 1


def test_within_one_alphabet_and_classes_that_keep_their_number():
    for _ in range(10):
        numbers = image_numbers(episodes(ways=2, within="alphabet").draw().support_x)
        assert len({number // (2 * N_EACH) for number in numbers}) == 1
    images = numbered_images()
    halves = Labels(np.arange(48) // 4 % 2, ("0", "1"))
    images.labels["half"] = halves
    source = Episodes(
        images, "half", ways=2, shots=1, queries=2, within="character",
        generator=torch.Generator().manual_seed(0), mean=0.0, std=1.0,
    )  # fmt: skip
    for _ in range(20):
        episode = source.draw()
        numbers = image_numbers(episode.support_x) + image_numbers(episode.query_x)
        asked = torch.cat([episode.support_y, episode.query_y]).tolist()
        assert [number // 4 % 2 for number in numbers] == asked


def test_images_of_some_classes_are_numbered_anew():
    some = images_of(numbered_images(), "alphabet", ["three", "one"])
    assert some.labels["character"].names == ("a", "b", "e", "f")
    assert some.labels["character"].values.tolist() == [k for k in range(4) for _ in range(N_EACH)]
    assert some.labels["alphabet"].names == ("one", "three")
    assert image_numbers(some.inputs(mean=0.0, std=1.0))[-1] == 47


def test_bad_requests_say_what_there_is():
    with pytest.raises(MicrotomeError, match="only 6 classes of 'character'; use 6 or fewer"):
        episodes(ways=7)
    with pytest.raises(MicrotomeError, match="only 2 classes of 'character' within one alphabet"):
        episodes(ways=3, within="alphabet")
    with pytest.raises(
        MicrotomeError, match="queries=4: character 'a' has 8 images for them and for shots=5"
    ):
        episodes(shots=5, queries=4)
    with pytest.raises(MicrotomeError, match="did you mean alphabet"):
        images_of(numbered_images(), "alphabets", ["one"])
    with pytest.raises(MicrotomeError, match=r"alphabet='four'.*choose from one, two, three"):
        images_of(numbered_images(), "alphabet", ["four"])
