"""Export a model as a program that needs neither this package nor its weights' files.

    python -m arniqa_jax.export --model=kadid10k|DIR --to=FILE.stablehlo
    python -m arniqa_jax.export --model=kadid10k|DIR --to=FILE.onnx [--input=crops]

StableHLO runs on cpu, cuda and tpu with JAX and flatbuffers. It takes crops, uint8
(N, 5, 2, P, P, 3) with P the crop size of the model (224), made by
`arniqa_jax.inference.preprocessing.evaluation_crops`, and returns scores, float32 (N,).

ONNX runs in onnxruntime and other engines; writing it needs the extra `onnx`. --input
says what the graph takes: `images`, uint8 (N, H, W, 3) of any size; `crops`, as above;
or `encoder`, one image's crops as float32 (10, 3, P, P) in [0, 1], for features instead
of scores. Each regressor of the model becomes an output of its name.
"""

from absl import flags

from arniqa_jax import command, errors

FLAGS = flags.FlagValues()
MODEL = command.define_model(FLAGS)
TO = flags.DEFINE_string("to", None, "File to write.", flag_values=FLAGS)

INPUT = flags.DEFINE_enum(
    "input",
    None,
    ["images", "crops", "encoder"],
    "What an ONNX graph takes; by default images.",
    flag_values=FLAGS,
)


def main(arguments: list[str]) -> int:
    """Check the flags and export; return the exit code."""
    if arguments:
        raise errors.UsageError(f"unexpected argument {arguments[0]!r}")
    if not MODEL.value or not TO.value:
        raise errors.UsageError(
            "--model and --to are needed, for example --model=kadid10k "
            "--to=scorer.stablehlo"
        )
    if not TO.value.endswith((".onnx", ".stablehlo")):
        raise errors.UsageError(
            f"--to={TO.value}: expected a name that ends in .onnx or .stablehlo"
        )
    if INPUT.value and not TO.value.endswith(".onnx"):
        raise errors.UsageError("--input needs a --to that ends in .onnx")
    from arniqa_jax.scoring import scorer
    from arniqa_jax.storage.files import local_path, write_atomically

    target = local_path(TO.value, "--to")
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.suffix == ".onnx":
        content = export_onnx(*scorer.load_all(MODEL.value), INPUT.value or "images")
    else:
        content = export(scorer.load(MODEL.value))
    write_atomically(target, content)
    print(f"written to {target}")
    return errors.SUCCESS


def export_onnx(encoder, regressors, takes: str) -> bytes:
    """Return a serialised ONNX graph, see `scoring.onnx_graph`."""
    from arniqa_jax.scoring import onnx_graph

    if takes == "encoder":
        return onnx_graph.encoder(encoder, batch_size=10)
    return onnx_graph.scorer(encoder, regressors, takes)


def export(scorer) -> bytes:
    """Return the serialised StableHLO program of a `scoring.scorer.Scorer`.

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
