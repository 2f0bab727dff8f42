"""Push a model to the Hugging Face hub.

    python -m arniqa_jax.push DIR hf://ORG/REPO

DIR is a model directory or the workdir of a run. Uploads encoder.safetensors,
model.json, the regressors and a model card. Needs the extra `hub`, and a token with
write access in HF_TOKEN. Use --dry_run to see the model card first.
"""

import pathlib

from absl import flags

from arniqa_jax import command, errors

FLAGS = flags.FlagValues()
DRY_RUN = flags.DEFINE_bool(
    "dry_run", False, "Print the model card and upload nothing.", flag_values=FLAGS
)
PRIVATE = flags.DEFINE_bool(
    "private", False, "Make a new repository private.", flag_values=FLAGS
)
LICENCE = flags.DEFINE_string(
    "licence",
    None,
    "Identifier of your licence, for example apache-2.0.",
    flag_values=FLAGS,
)
TRAINING_DATA = flags.DEFINE_string(
    "training_data",
    None,
    "What the encoder was trained on, in words; by default from the config of a run.",
    flag_values=FLAGS,
)
RESULTS = flags.DEFINE_string(
    "results",
    None,
    "The results.json for the model card; by default that of the last evaluation in "
    "DIR/results.",
    flag_values=FLAGS,
)


def main(arguments: list[str]) -> int:
    """Check the arguments and upload; return the exit code."""
    if len(arguments) != 2 or not arguments[1].startswith("hf://"):
        raise errors.UsageError(
            "a model and an address are needed, for example MODEL hf://ORG/REPO"
        )
    from arniqa_jax.storage import files
    from arniqa_jax.weights import hub, model_card, torch_import

    directory = files.local_path(arguments[0], "DIR")
    address = hub.parse(arguments[1])
    if address.regressor:
        raise errors.UsageError(
            f"{arguments[1]}: all regressors are uploaded; leave out "
            f":{address.regressor}"
        )
    if not directory.is_dir():
        raise errors.UsageError(f"{directory}: there is no such directory")
    encoder, regressors, source = torch_import.read_directory(pathlib.Path(directory))
    card = model_card.write(
        f"hf://{address.repository}",
        encoder,
        regressors,
        source,
        training_data=TRAINING_DATA.value or model_card.training_data(directory),
        results=model_card.find_results(directory, encoder, RESULTS.value),
        licence=LICENCE.value,
    )
    if DRY_RUN.value:
        print(card)
        return errors.SUCCESS
    url = hub.upload(address, encoder, regressors, source, card, private=PRIVATE.value)
    print(f"uploaded to {url}")
    return errors.SUCCESS


if __name__ == "__main__":
    command.run(main, FLAGS, usage=__doc__)
