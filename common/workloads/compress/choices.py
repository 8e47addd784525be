"""What a recipe leaves as it is: the plainest of each kind of choice, whose interface rungs share.

`parts` is the model in pieces (parts.Parts), `base` what it is made of and with (base.Base).
"""

import torch


class AsTrained:
    """The base model's parameters."""

    @staticmethod
    def trained(base, recipe, settings) -> dict[str, torch.Tensor]:
        """Parameters by GPT's names, float32."""
        return base.state

    @staticmethod
    def controls(recipe) -> dict:
        """Recipes to hold the result against, by name: trained as long, without the change."""
        return {}


class Unpruned:
    """All heads and neurons."""

    @staticmethod
    def kept(base, recipe) -> list[tuple[torch.Tensor, torch.Tensor]] | None:
        """Of each layer the numbers of the heads and of the neurons that stay; None: all."""
        return None

    @staticmethod
    def controls(recipe) -> dict:
        return {}


class Magnitude:
    """Whoever has small weights is missed least."""

    @staticmethod
    def scores(base) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Of each layer, one for each head (H,) and one for each neuron (4 C,): higher stays."""
        return [
            (
                torch.stack([part.square().sum() for part in base.of_heads(layer)]),
                base.state[f"blocks.{layer}.feed_forward.expand.weight"].square().sum(1)
                + base.state[f"blocks.{layer}.feed_forward.contract.weight"].square().sum(0),
            )
            for layer in range(base.shape.layers)
        ]


class Unscaled:
    """Activations and weights as they are."""

    @staticmethod
    def scaled(parts, inputs, recipe):
        """The same model, exactly, whose parts are scaled otherwise. `inputs`: makes statistics."""
        return parts


class Nearest:
    """Every weight takes its nearest code."""

    @staticmethod
    def choose(kind, weight: torch.Tensor, recipe, inputs) -> tuple:
        """The grid and the codes of a weight (N, K), float32. `inputs`: makes its statistics."""
        grid = kind.fit(weight, recipe).stored()
        return grid, grid.codes(weight)


class Everything:
    """All matrices in the recipe's format."""

    @staticmethod
    def recipes(parts, recipe, base, settings, told: dict) -> dict:
        """A recipe for each matrix, by its name; `told`: takes what a record is to say of it."""
        return dict.fromkeys(parts.matrices, recipe)
