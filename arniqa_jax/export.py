"""Export a scorer as a serialised StableHLO program, weights included.

    python -m arniqa_jax.export --model=kadid10k|DIR --to=FILE

The program takes crops, uint8 (N, 5, 2, P, P, 3) with P the crop size of the model
(224), made by `arniqa_jax.inference.preprocessing.evaluation_crops`. It returns scores,
float32 (N,), for any N, on cpu, cuda and tpu. Running it needs only JAX and
flatbuffers.
"""

from absl import flags

from arniqa_jax import command, errors

FLAGS = flags.FlagValues()
MODEL = command.define_model(FLAGS)
TO = flags.DEFINE_string("to", None, "File to write.", flag_values=FLAGS)


def main(arguments: list[str]) -> int:
    """Check the flags and export; return the exit code."""
    if arguments:
        raise errors.UsageError(f"unexpected argument {arguments[0]!r}")
    if not MODEL.value or not TO.value:
        raise errors.UsageError(
            "--model and --to are needed, for example --model=kadid10k "
            "--to=scorer.stablehlo"
        )
    from arniqa_jax.scoring import scorer
    from arniqa_jax.storage.files import local_path, write_atomically

    target = local_path(TO.value, "--to")
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, export(scorer.load(MODEL.value)))
    print(f"written to {target}")
    return command.SUCCESS


def export(scorer) -> bytes:
    """Return the serialised program of a `scoring.scorer.Scorer`.

    Raises:
      UsageError: the scorer has no regressor, or its regressor is for whole images.
    """
    import jax
    from jax import export as jax_export

    if scorer.crops != "five":
        raise errors.UsageError(
            "only models whose regressor was fitted on crops=five can be exported"
        )
    scorer.require_regressor()
    # Remove the sharding over this machine's devices, which would become part of the
    # program.
    params = jax.device_get(scorer.params)
    size = scorer.encoder.patch_size
    (images,) = jax_export.symbolic_shape("n")
    crops = jax.ShapeDtypeStruct((images, 5, 2, size, size, 3), "uint8")
    program = jax_export.export(
        jax.jit(lambda crops: scorer.score_crops(params, crops)),
        platforms=("cpu", "cuda", "tpu"),
    )(crops)
    return program.serialize()


if __name__ == "__main__":
    command.run(main, FLAGS, usage=__doc__)
