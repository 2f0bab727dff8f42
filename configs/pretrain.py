"""Pre-training as in the paper: ResNet-50 on KADIS-700k, 10 epochs, batch 16.

    python -m arniqa_jax.main --config=pretrain --workdir=runs/kadis \
        --config.data.root=KADIS700

Every other config is a delta of this one. The type of a default is the type of the
field; the config is locked, so a misspelt field is an error.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The paper's settings, every field with its unit or meaning."""
    config = ConfigDict()
    config.seed = 27  # everything random derives from it

    config.data = ConfigDict()
    config.data.root = ""  # folder of photographs; empty: the built-in ones
    # auto (looks at the root), folder, array_record, tfds:NAME, builtin
    config.data.source = "auto"
    config.data.patch_size = 224  # side of a crop, pixels
    config.data.workers = 2  # decoding processes; 0: in the training process
    # independent: B is any other photograph; rolled: B is another A of the same batch,
    # so that each photograph is decoded once for two uses; same: B is another crop of
    # A, the objective of earlier methods, for comparison
    config.data.pairing = "independent"
    config.data.max_bad_share = 0.05  # share of unreadable photographs that stops a run

    config.degradation = ConfigDict()
    config.degradation.max_distortions = 4  # longest chain, 1..7 (there are 7 groups)
    config.degradation.num_levels = 5  # levels drawn from, 1..5
    config.degradation.pristine_prob = 0.05  # probability of an empty chain
    config.degradation.tile = 0  # samples per dispatched call; 0: by backend

    config.model = ConfigDict()
    config.model.arch = "resnet50"  # resnet18, resnet34, small; tiny for tests
    config.model.init = "imagenet"  # random, imagenet, or the path of a model
    config.model.embedding_dim = 128  # outputs of the projector
    config.model.normalize_features = True  # L2 before the projector
    config.model.projector_norm = "none"  # batch: BatchNorm, for starts from random
    config.model.dtype = "float32"  # of the computation; bfloat16
    # of float32 convolutions on a TPU or GPU: default (bfloat16 passes, TF32: fast),
    # high or highest (float32); a CPU computes in float32 anyway
    config.model.precision = "default"
    config.model.batch_norm_groups = 1  # 1: statistics of the global batch
    # compute the inside of each residual block twice instead of keeping it for the
    # gradient: less memory, a third more FLOPs (on a CPU XLA undoes it: no change)
    config.model.rematerialize = False

    config.loss = ConfigDict()
    config.loss.temperature = 0.1  # of NT-Xent

    config.optimizer = ConfigDict()
    config.optimizer.name = "sgd"  # sgd, adamw, lars
    config.optimizer.learning_rate = 1e-3  # at batch 16, see schedule.lr_scaling
    config.optimizer.momentum = 0.9  # of sgd and lars
    config.optimizer.weight_decay = 1e-4  # sgd, lars: in the gradient; adamw: decoupled

    config.schedule = ConfigDict()
    config.schedule.name = "warm_restarts"  # warm_restarts, cosine, constant
    config.schedule.first_period_epochs = 1.0  # warm_restarts: the first period
    config.schedule.period_multiplier = 2.0  # warm_restarts: each period over the last
    config.schedule.floor = 1e-6  # learning rate at the end of a period or the run
    config.schedule.warmup_steps = 0  # steps of linear warm-up from 0
    config.schedule.lr_scaling = "none"  # linear, sqrt: with batch_size / 16

    config.train = ConfigDict()
    config.train.batch_size = 16  # pairs of photographs, over all devices
    config.train.epochs = 10  # passes over the photographs
    config.train.steps = 0  # above 0: this many steps instead of the epochs
    config.train.log_every = 1  # steps
    config.train.picture_every = 1000  # steps; 0: no pictures
    config.train.checkpoint_every = 0  # steps; 0: after each epoch
    config.train.accumulation = 1  # chunks that a batch is embedded in

    config.evaluation = ConfigDict()
    config.evaluation.root = ""  # folder that holds the labelled datasets
    # comma-separated: builtin, live, csiq, tid2013, kadid10k, flive, spaq, clive,
    # koniq-10k, biq2021, csv
    config.evaluation.datasets = "builtin"
    config.evaluation.every_epochs = 1  # validation; 0: none before the end
    config.evaluation.validation_alpha = 0.1  # ridge penalty of the validation
    config.evaluation.crops = "five"  # five (centre and corners), whole
    config.evaluation.allow_partial = False  # go on where images are missing
    # The evaluate command alone reads these three, which cost time:
    config.evaluation.full_reference = False  # tables from [f, |f - f_ref|] besides
    config.evaluation.data_efficiency = False  # tables from 10..80 % of training parts
    config.evaluation.figures = True  # scatter, manifold, best and worst, bars

    config.log = ConfigDict()
    config.log.tensorboard = True  # write events.*
    config.log.wandb_project = ""  # empty: no Weights & Biases

    config.lock()
    return config
