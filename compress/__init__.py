"""What can be done to a model?"""

from modeltailor.compress.vocabulary import (
    Artifact,
    Format,
    Recipe,
    Rounding,
    Scheme,
    Settings,
    Site,
    SiteKind,
    SiteReport,
    Smoothing,
    Structure,
    Training,
    recipe_from_plain,
)

__all__ = [
    "Artifact",
    "Format",
    "Recipe",
    "Rounding",
    "Scheme",
    "Settings",
    "Site",
    "SiteKind",
    "SiteReport",
    "Smoothing",
    "Structure",
    "Training",
    "recipe_from_plain",
]
