"""Draw what every distortion does to a photograph.

    python -m arniqa_jax.degradation.gallery [IMAGE] --output=DIR

The command writes two pictures: DIR/distortions.png, a contact sheet of the 24
distortions at their 5 levels with the values of their parameters, and DIR/chains.png,
12 random chains with their descriptions. The default image is a photograph that comes
with scikit-image, the astronaut.
"""

from absl import flags, logging

from arniqa_jax import command, errors
from arniqa_jax.storage import files

FLAGS = flags.FlagValues()
OUTPUT = flags.DEFINE_string(
    "output", None, "Folder for the two pictures, made if missing.", flag_values=FLAGS
)
SEED = flags.DEFINE_integer(
    "seed", 0, "Random seed of the noise and the chains.", flag_values=FLAGS
)


def main(arguments: list[str]) -> None:
    """Check the arguments and draw the two pictures."""
    if OUTPUT.value is None:
        raise errors.UsageError("--output=DIR is missing: the folder for the pictures")
    if len(arguments) > 1:
        raise errors.UsageError(f"expected at most one image, got {len(arguments)}")
    from arniqa_jax.degradation import contact_sheets

    image = files.local_path(arguments[0], "the image") if arguments else None
    crop = contact_sheets.load_crop(image)
    folder = files.local_path(OUTPUT.value, "--output")
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in (
        ("distortions", contact_sheets.draw_distortions),
        ("chains", contact_sheets.draw_chains),
    ):
        path = folder / f"{name}.png"
        draw(crop, seed=SEED.value).savefig(path)
        logging.info("wrote %s", path)


if __name__ == "__main__":
    command.run(main, FLAGS, usage=__doc__)
