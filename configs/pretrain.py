"""Pre-training as in the paper: ResNet-50 on KADIS-700k, 10 epochs, batch 16.

    python -m arniqa_jax.main --config=pretrain --workdir=runs/kadis \\
        --config.data.root=KADIS700

Every other config is a set of changes to this one. The type of a default is the type of
the field. The config is locked, so a misspelt field is an error.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Return the paper's settings; the comments explain the fields."""
    config = ConfigDict()
    config.seed = 27  # all randomness derives from it

    config.data = ConfigDict()
    config.data.root = ""  # folder, gs:// or s3://; empty: built-in photographs
    # auto (chosen by the files in the root), folder, array_record, tfds:NAME, builtin
    config.data.source = "auto"
    config.data.patch_size = 224  # side of a crop, pixels
    config.data.workers = 2  # decoding processes; 0: a thread of the training process
    config.data.cache_mib = 128  # MiB of decoded photographs that each of them keeps
    # photograph of view B. independent: any other photograph; rolled: view A of the
    # next row of the batch, so that each photograph is decoded once for two uses; same:
    # the photograph of view A, the objective of earlier methods, for comparison
    config.data.pairing = "independent"
    # largest fraction of unreadable photographs that is tolerated
    config.data.max_bad_share = 0.05

    config.degradation = ConfigDict()
    config.degradation.max_distortions = 4  # longest chain, 1..7 (there are 7 groups)
    config.degradation.num_levels = 5  # levels to draw from, 1..5
    config.degradation.pristine_prob = 0.05  # probability of an empty chain
    # samples with the same distortion that run together; 0: chosen by the platform
    config.degradation.tile = 0

    config.model = ConfigDict()
    config.model.arch = "resnet50"  # resnet18, resnet34, small; tiny for tests
    config.model.init = "imagenet"  # random, imagenet, or a path, gs:// or hf://
    config.model.embedding_dim = 128  # outputs of the projector
    config.model.normalize_features = True  # L2 before the projector
    # normalisation after the first layer of the projector: none, or batch (BatchNorm),
    # which helps training from random weights
    config.model.projector_norm = "none"
    config.model.dtype = "float32"  # dtype of the computation: float32, bfloat16
    # precision of float32 convolutions on a TPU or GPU: default (bfloat16 passes, TF32;
    # fast), high or highest (float32); a CPU always computes in float32
    config.model.precision = "default"
    # groups of rows that BatchNorm normalises separately; 1: the whole global batch
    config.model.batch_norm_groups = 1
    # recompute the activations inside each residual block in the backward pass instead
    # of storing them: less memory, a third more FLOPs (no effect on a CPU)
    config.model.rematerialize = False

    config.loss = ConfigDict()
    config.loss.temperature = 0.1  # temperature of NT-Xent
    # whether the full- and half-scale crops of one pair are negatives of each other, as
    # in the paper
    config.loss.scale_negatives = True

    config.optimizer = ConfigDict()
    config.optimizer.name = "sgd"  # sgd, adamw, lars
    config.optimizer.learning_rate = 1e-3  # at batch size 16, see schedule.lr_scaling
    config.optimizer.momentum = 0.9  # momentum of sgd and lars
    # sgd, lars: added to the gradient; adamw: decoupled
    config.optimizer.weight_decay = 1e-4

    config.schedule = ConfigDict()
    config.schedule.name = "warm_restarts"  # warm_restarts, cosine, constant
    config.schedule.first_period_epochs = 1.0  # warm_restarts: length of period 1
    # warm_restarts: length of each period relative to the one before
    config.schedule.period_multiplier = 2.0
    config.schedule.floor = 1e-6  # learning rate at the end of a period or the run
    config.schedule.warmup_steps = 0  # steps of linear warm-up from 0
    # none; linear or sqrt: scale the learning rate with batch_size / 16
    config.schedule.lr_scaling = "none"

    config.train = ConfigDict()
    config.train.batch_size = 16  # pairs of photographs, over all devices
    config.train.epochs = 10  # passes over the photographs
    config.train.steps = 0  # if above 0, this number of steps instead of the epochs
    config.train.log_every = 1  # steps between two log entries
    config.train.picture_every = 1000  # steps between two pictures; 0: no pictures
    config.train.checkpoint_every = 0  # steps between checkpoints; 0: every epoch
    # chunks in which a batch is embedded, to save memory; BatchNorm then normalises
    # each chunk by its own statistics
    config.train.accumulation = 1

    config.evaluation = ConfigDict()
    config.evaluation.root = ""  # folder of the labelled datasets, also in a bucket
    # comma-separated: builtin, live, csiq, tid2013, kadid10k, flive, spaq, clive,
    # koniq-10k, koniq-10k-official, biq2021, uhd-iqa, pipal, csv, meta:NAME
    config.evaluation.datasets = "builtin"
    # columns of the csv tables as IMAGE,SCORE; empty: the usual names
    config.evaluation.csv_columns = ""
    # scale of the scores of csv tables as LOW,HIGH; empty: smallest and largest score
    config.evaluation.csv_range = ""
    # epochs between two validations; 0: no validation before the end
    config.evaluation.every_epochs = 1
    config.evaluation.validation_alpha = 0.1  # ridge penalty of the validation
    # five: centre and corners, as in the paper; whole: the whole image; whole_std: the
    # whole image, its features pooled by the standard deviation instead of the mean
    config.evaluation.crops = "five"
    config.evaluation.allow_partial = False  # continue if images are missing
    # only the evaluate command reads it: also tables from [f, |f - f_ref|]
    config.evaluation.full_reference = False
    # only the evaluate command reads it: also tables from 10..80 % of the training part
    config.evaluation.data_efficiency = False
    # only the evaluate command reads it: scatter plots, manifold, best and worst
    # images, bars
    config.evaluation.figures = True

    config.log = ConfigDict()
    config.log.tensorboard = True  # write TensorBoard event files
    config.log.wandb_project = ""  # empty: no Weights & Biases
    # FIRST:LAST, such as 100:105: a trace of these steps in the directory profile/ of
    # the run, for xprof; empty: none
    config.log.profile_steps = ""

    config.lock()
    return config
