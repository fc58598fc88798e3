"""Groups of ImageNet's 1,000 classes, by their numbers: a small table of our own.

The classes are numbered as in ILSVRC 2012, which sorts them by WordNet number, so that animals of a kind stand
together. Groups are named after WordNet's hypernyms (Miller 1995); which class belongs where was read off the names of
the classes.
"""

from __future__ import annotations

__all__ = ["IMAGENET", "IMAGENET_COARSE"]

_FINE = {
    "dog": "151-268",
    "wild_dog": "269-280",
    "domestic_cat": "281-285",
    "big_cat": "286-293",
    "bear": "294-297",
    "small_carnivore": "298-299 356-362",
    "primate": "365-384",
    "ungulate": "339-355",
    "rodent_and_rabbit": "330-338",
    "marine_mammal": "147-150",
    "other_mammal": "101-106 363-364 385-388",
    "bird": "7-24 80-100 127-146",
    "snake": "52-68",
    "lizard": "38-48",
    "other_reptile": "33-37 49-51",
    "amphibian": "25-32",
    "fish": "0-6 389-397",
    "insect": "300-326",
    "arachnid_and_other_arthropod": "69-79",
    "crustacean": "118-126",
    "other_invertebrate": "107-117 327-329",
    "vehicle": "403-405 407-408 428 436 444 450 466 468 472 484 510-511 537 547 554-555 561 565 569 573 575-576 586 "
    "595 603 609 612 625 627-628 654 656 661 665 670-671 675 690 705 717 724 734 751 757 779-780 791 802-803 812 814 "
    "817 820 829 833 847 856 864 866-867 870-871 874 880 895 914",
    "musical_instrument": "401-402 420 432 486 494 513 541 546 558 566 577 579 593-594 641-642 683-684 687 699 776 822 "
    "875 881 889",
    "clothing": "399-400 411 433 439 445 451-452 457 459 474 501-502 514-515 529 552 568 578 601 608 610 614 617 630 "
    "638-639 652 655 658 667 689 697 735 770 774-775 793 806 808 824 834 841-842 869 887 906",
    "food": "924-969",
    "plant_and_fungus": "984-998",
    "landscape": "970-980",
    "person": "981-983",
}
_COARSE = {
    "mammal": (
        *("dog", "wild_dog", "domestic_cat", "big_cat", "bear", "small_carnivore", "primate", "ungulate"),
        *("rodent_and_rabbit", "marine_mammal", "other_mammal"),
    ),
    "bird": ("bird",),
    "reptile_and_amphibian": ("snake", "lizard", "other_reptile", "amphibian"),
    "fish": ("fish",),
    "invertebrate": ("insect", "arachnid_and_other_arthropod", "crustacean", "other_invertebrate"),
    "artifact": ("vehicle", "musical_instrument", "clothing", "other_artifact"),
    "nature_and_food": ("food", "plant_and_fungus", "landscape", "person"),
}


def _numbered() -> tuple[str, ...]:
    of = ["other_artifact"] * 1000
    for group, ranges in _FINE.items():
        for part in ranges.split():
            first, _, last = part.partition("-")
            for number in range(int(first), int(last or first) + 1):
                of[number] = group
    return tuple(of)


IMAGENET = _numbered()
"""The group of each class, 29 of them."""

IMAGENET_COARSE = tuple(next(coarse for coarse, fine in _COARSE.items() if group in fine) for group in IMAGENET)
"""The group of each class, seven of them."""
