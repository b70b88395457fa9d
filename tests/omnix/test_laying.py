"""Several pictures on one panorama of any colour, with soft borders; the seam to the middle and back."""

import math

import numpy as np
import pytest
import torch
from comfyui_omnix import nodes
from comfyui_omnix.omnix.pictures import background, panorama
from comfyui_omnix.omnix.pictures.panorama import Laid, place_on_panorama
from torch import Tensor

GREY = panorama.UNSEEN_GREY


def picture(value: float, batch: int = 1) -> Tensor:
    return torch.full((batch, 30, 40, 3), value)


def test_any_background() -> None:
    plain, unseen = place_on_panorama(picture(0.9), 64, 32)
    green, same = place_on_panorama(picture(0.9), 64, 32, background=(0.0, 1.0, 0.0))
    assert torch.equal(same, unseen) and set(unseen.unique().tolist()) == {0.0, 1.0}
    nothing = unseen > 0
    assert torch.equal(green[~nothing], plain[~nothing])
    assert (plain[nothing] == GREY).all() and (green[nothing] == torch.tensor([0.0, 1.0, 0.0])).all()


def test_backgrounds_by_name_and_by_colour() -> None:
    assert background.background_of("green") == (0.0, 1.0, 0.0) == background.background_of("grey", " #00ff00 ")
    assert background.background_of("grey") == (GREY,) * 3
    assert background.background_of("white", "0080FF") == (0.0, 128 / 255, 1.0)
    for wrong in ("#0F0", "green", "#00FF0G", "#00FF00FF"):
        with pytest.raises(ValueError, match="expected six digits such as #00FF00"):
            background.background_of("grey", wrong)


def test_pictures_at_their_angles_do_not_hide_each_other() -> None:
    """Apart from each other, each is where it would be alone; the mask is what neither reaches."""
    front, back = place_on_panorama(picture(0.2), 128, 64, 60.0), place_on_panorama(picture(0.8), 128, 64, 60.0, 180.0)
    both = place_on_panorama(picture(0.8), 128, 64, 60.0, 180.0, onto=front)
    assert torch.equal(both.unseen, torch.minimum(front.unseen, back.unseen))
    for alone in (front, back):
        assert torch.equal(both.colours[alone.unseen == 0], alone.colours[alone.unseen == 0])
    assert (both.colours[both.unseen == 1] == GREY).all()


def test_the_later_picture_is_above() -> None:
    first = place_on_panorama(picture(0.2), 128, 64, 90.0)
    both = place_on_panorama(picture(0.8), 128, 64, 90.0, 20.0, onto=first)
    alone = place_on_panorama(picture(0.8), 128, 64, 90.0, 20.0)
    assert torch.equal(both.colours[alone.unseen == 0], alone.colours[alone.unseen == 0])
    rest = (first.unseen == 0) & (alone.unseen == 1)
    assert rest.any() and torch.equal(both.colours[rest], first.colours[rest])


def test_soft_borders() -> None:
    """The mask falls from 1 at the border to 0 that angle inside; colours blend over another picture alone."""
    hard, soft = (place_on_panorama(picture(0.8), 256, 128, 90.0, feather=degrees) for degrees in (0.0, 10.0))
    assert torch.equal(hard.colours, soft.colours)
    row = soft.unseen[0, 64, :129]
    inside = (hard.unseen[0, 64, :129] == 0).nonzero().flatten()
    angles = (torch.arange(129, dtype=torch.float64) * 2 * math.pi / 256 - math.pi)[inside]
    focal = 20 / math.tan(math.radians(45))
    depth = (focal * angles.tan() + 20.5) / (math.tan(math.radians(10)) * focal)
    assert torch.allclose(row[inside].double(), 1 - depth.clamp(0, 1), atol=1e-5)
    below = Laid(torch.zeros(1, 128, 256, 3), torch.zeros(1, 128, 256))
    laid = place_on_panorama(picture(0.8), 256, 128, 90.0, feather=10.0, onto=below)
    seen = hard.unseen == 0
    assert torch.allclose(laid.colours[seen], 0.8 * (1 - soft.unseen[seen])[:, None].expand(-1, 3), atol=1e-6)
    assert not laid.unseen.any()


def test_a_part_of_a_panorama_below() -> None:
    """Pixels that a loader has filled with grey, according to its mask, get the background's colour."""
    part = torch.rand(1, 32, 64, 4)
    unseen = torch.zeros(1, 32, 64)
    unseen[:, :10] = 1
    laid = place_on_panorama(picture(0.5, batch=2), 64, 32, 40.0, background=(0, 1, 0), onto=Laid(part, unseen))
    assert laid.colours.shape == (2, 32, 64, 3)
    assert (laid.colours[:, :8] == torch.tensor([0.0, 1.0, 0.0])).all()
    assert torch.equal(laid.colours[1, 26:], part[0, 26:, :, :3])


def test_one_picture_on_a_batch_of_panoramas() -> None:
    below = Laid(torch.rand(3, 32, 64, 3), torch.zeros(1, 32, 64))
    laid = place_on_panorama(picture(0.5), 64, 32, 60.0, onto=below)
    alone = [place_on_panorama(picture(0.5), 64, 32, 60.0, onto=Laid(one[None], below.unseen)) for one in below.colours]
    assert torch.equal(laid.colours, torch.cat([each.colours for each in alone]))
    assert laid.unseen.shape == (3, 32, 64)


def test_what_does_not_fit_is_refused() -> None:
    below = Laid(torch.zeros(1, 16, 32, 3), torch.zeros(1, 16, 32))
    with pytest.raises(ValueError, match="onto is a batch of 1 of 32x16, expected 1 of 64x32; set width and height"):
        place_on_panorama(picture(0.5), 64, 32, onto=below)
    with pytest.raises(ValueError, match="onto_unseen is a batch of 2 of 32x16, expected 3 of"):
        place_on_panorama(picture(0.5, 3), 32, 16, onto=Laid(below.colours, torch.zeros(2, 16, 32)))
    with pytest.raises(ValueError, match=r"feather is 90\.0 degrees"):
        place_on_panorama(picture(0.5), 64, 32, feather=90.0)
    with pytest.raises(ValueError, match="onto_unseen is connected and onto is not"):
        nodes.OmniXPlaceOnPanorama.execute(picture(0.5), 64, 32, 90.0, 0, 0, 0, onto_unseen=below.unseen)


@pytest.mark.parametrize("height", [1, 31, 64])
def test_the_seam_to_the_middle_and_back(height: int) -> None:
    image = torch.rand(2, height, 2 * height, 3)
    (rolled, seam), (back, _) = (
        panorama.seam_to_middle(image, 20.0),
        panorama.seam_to_middle(panorama.seam_to_middle(image, 20.0).colours, 20.0),
    )
    assert np.array_equal(rolled.numpy(), np.roll(image.numpy(), height, axis=2))
    assert torch.equal(back, image)
    assert torch.equal(rolled[:, :, height], image[:, :, 0]) and torch.equal(rolled[:, :, height - 1], image[:, :, -1])
    assert seam.shape == (2, height, 2 * height)


def test_the_mask_of_the_seam() -> None:
    """20 of 360 degrees are 40 of 720 columns: 20 in the middle are 1, 10 on each side fade out."""
    _, seam = panorama.seam_to_middle(torch.zeros(1, 360, 720, 3), 20.0)
    row = seam[0, 0]
    assert (row[350:370] == 1).all() and not row[:340].any() and not row[380:].any()
    assert torch.allclose(row[340:350], (torch.arange(10) + 0.5) / 10, atol=1e-6)
    assert torch.equal(row, row.flip(0))
    assert not panorama.seam_to_middle(torch.zeros(1, 8, 16, 3), 0.0).unseen.any()
    with pytest.raises(ValueError, match="twice as wide as high"):
        panorama.seam_to_middle(torch.zeros(1, 8, 15, 3), 20.0)
