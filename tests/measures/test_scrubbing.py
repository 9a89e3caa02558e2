"""Scrubbed and anti-scrubbed losses of a network whose components are known."""

import torch

from microtome.measures.scrubbing import scrubbed_losses, scrubbed_mask


def test_masks_keep_or_ablate_exactly_the_responsible_components():
    generator = torch.Generator().manual_seed(0)
    active = torch.rand(50, 6, generator=generator) < 0.3
    keep = torch.rand(50, 6, generator=generator) < 0.5
    scrubbed, anti = scrubbed_mask(active, keep)
    for b in range(50):
        for c in range(6):
            expected = 1.0 if active[b, c] else float(keep[b, c])
            assert scrubbed[b, c] == expected
            assert anti[b, c] == (0.0 if active[b, c] else float(keep[b, c]))


def test_losses_of_an_identity_network_of_one_component_per_feature():
    """out = x * mask: with one-hot inputs only the responsible component matters."""
    x = 2.0 * torch.eye(4)
    losses = scrubbed_losses(
        lambda masks: x * masks["site"],
        target_output=x,
        active={"site": x > 0},
        generator=torch.Generator().manual_seed(1),
    )
    assert losses.active.tolist() == [0.0] * 4
    assert losses.scrubbed.tolist() == [0.0] * 4
    assert losses.anti_scrubbed.tolist() == [1.0] * 4


def test_losses_match_a_loop_when_components_interact():
    generator = torch.Generator().manual_seed(2)
    x, weight = torch.rand(8, 5, generator=generator), torch.rand(5, 3, generator=generator)
    active = {"site": x > 0.5}

    def forward(masks):
        return torch.relu((x * masks["site"]) @ weight)

    losses = scrubbed_losses(forward, forward({"site": torch.ones(8, 5)}), active, generator.manual_seed(3))
    coins = torch.rand(8, 5, generator=torch.Generator().manual_seed(3)) < 0.5
    for b in range(8):
        full = torch.relu(x[b] @ weight)
        kept = torch.relu((x[b] * (coins[b] | active["site"][b])) @ weight)
        without = torch.relu((x[b] * (coins[b] & ~active["site"][b])) @ weight)
        torch.testing.assert_close(losses.scrubbed[b], (kept - full).square().mean())
        torch.testing.assert_close(losses.anti_scrubbed[b], (without - full).square().mean())
    assert losses.anti_scrubbed.mean() > losses.scrubbed.mean()


def test_sites_that_share_a_mask_share_their_coins_and_the_first_run_can_have_masks_of_its_own():
    shared, own = torch.rand(6, 5) < 0.4, torch.rand(6, 5) < 0.4
    seen = []

    def forward(masks):
        seen.append(masks)
        return torch.zeros(6, 2)

    active = {"a": shared, "b": shared, "c": own}
    plain = {"a": torch.full((6, 5), 0.25)}
    scrubbed_losses(forward, torch.ones(6, 2), active, torch.Generator().manual_seed(0), plain=plain)
    assert torch.equal(seen[0]["a"], plain["a"])
    for masks in seen[1:]:
        assert torch.equal(masks["a"], masks["b"])
        assert not torch.equal(masks["a"], masks["c"])
