"""Settings files with something wrong: every line of the tables is refused, with the place, what was found and what
was expected."""

from dataclasses import is_dataclass
from typing import get_args, get_type_hints

import pytest

from difflora_core.fields import number_fields
from training.autoencoder.settings import LAESettings
from training.denoiser.settings import DiffLoRASettings
from training.end_to_end.settings import FinetuneSettings, JointSettings
from training.engine.settings import read_settings
from training.lora_dataset.config import DatasetConfig

LAE = "stores: [store]\noutput: out\n"
DIFFLORA = "stores: [store]\nlae: lae\noutput: out\nencoders: {face: f, image: i}\nembeddings: {cache: [c]}\n"
FINETUNE = "network: a/net\nstores: [store]\ndataset: d.yaml\noutput: out\n"
JOINT = "output: out\nencoders: {face: f, image: i}\nembeddings: {dataset: d.yaml, image_encoder: c}\n"
DATASET = "workspace: work\nbase: base\n"
KINDS = {
    "lae": (LAESettings, LAE),
    "difflora": (DiffLoRASettings, DIFFLORA),
    "finetune": (FinetuneSettings, FINETUNE),
    "joint": (JointSettings, JOINT),
    "dataset": (DatasetConfig, DATASET),
}

AT_LEAST_1 = "greater than or equal to 1"
CASES = [
    # Numbers outside their range
    ("lae", "lae: {tokens: 0}", "lae.tokens", AT_LEAST_1),
    ("lae", "lae: {width: -3}", "lae.width", AT_LEAST_1),
    ("lae", "lae: {blocks: -1}", "lae.blocks", "greater than or equal to 0"),
    ("lae", "lae: {channels: 0}", "lae.channels", AT_LEAST_1),
    ("lae", "lae: {groups: 0}", "lae.groups", AT_LEAST_1),
    ("lae", "lae: {chunk: 0}", "lae.chunk", AT_LEAST_1),
    ("lae", "lae: {kernel: 4}", "lae", "must be odd"),
    ("lae", "lae: {groups: 5}", "lae", "must divide"),
    ("lae", "lae: {kind: linear, variational: true}", "lae", "found kind 'linear'"),
    ("lae", "layout: {rank: 0}", "layout.rank", AT_LEAST_1),
    ("lae", "in_memory_gb: -1", "in_memory_gb", "greater than or equal to 0"),
    ("lae", "training: {batch: 0}", "training.batch", AT_LEAST_1),
    ("lae", "training: {blend: 1.5}", "training.blend", "less than or equal to 1"),
    ("lae", "training: {noise: -0.1}", "training.noise", "greater than or equal to 0"),
    ("lae", "training: {losses: {kl: -1}}", "training.losses.kl", "greater than or equal to 0"),
    ("lae", "training: {losses: {reconstruction: 0, weight_preserved: 0}}", "training.losses", "expected one above 0"),
    ("lae", "training: {evaluation: {interval: 0}}", "training.evaluation.interval", AT_LEAST_1),
    ("lae", "training: {evaluation: {patience: -1}}", "training.evaluation.patience", AT_LEAST_1),
    ("lae", "training: {loop: {steps: -1, learning_rate: 0.1}}", "training.loop.steps", "greater than or equal to 0"),
    ("lae", "training: {loop: {steps: 1, learning_rate: 0}}", "training.loop.learning_rate", "greater than 0"),
    ("lae", "training: {loop: {steps: 1, learning_rate: 0.1, ema: 1}}", "training.loop.ema", "less than 1"),
    ("lae", "training: {loop: {steps: 1, learning_rate: 0.1, clip: 0}}", "training.loop.clip", "greater than 0"),
    ("lae", "training: {loop: {steps: 1, learning_rate: 0.1, save_every: 0}}", "training.loop.save_every", AT_LEAST_1),
    ("lae", "training: {loop: {steps: 1, learning_rate: 0.1, seed: -1}}", "training.loop.seed", "equal to 0"),
    ("lae", f"training: {{loop: {{steps: 1, learning_rate: 0.1, seed: {2**64}}}}}", "training.loop.seed", "less than"),
    (
        "lae",
        "training: {loop: {steps: 1, learning_rate: 0.1, shard: true, compile: true}}",
        "training.loop",
        "exclude each other",
    ),
    ("difflora", "dit: {layers: 0}", "dit.layers", AT_LEAST_1),
    ("difflora", "dit: {width: 0}", "dit.width", AT_LEAST_1),
    ("difflora", "dit: {mlp_ratio: 0}", "dit.mlp_ratio", "greater than 0"),
    ("difflora", "dit: {name: huge}", "dit", "DiTs by name are paper, small, miniature, found 'huge'"),
    ("difflora", "mif: {width: -2}", "mif.width", AT_LEAST_1),
    ("difflora", "training: {timestep_bias: -1}", "training.timestep_bias", "greater than 0"),
    ("difflora", "training: {cfg_dropout: 2}", "training.cfg_dropout", "less than or equal to 1"),
    ("difflora", "training: {max_references: 0}", "training.max_references", AT_LEAST_1),
    ("difflora", "training: {delta_w_below: 1001}", "training.delta_w_below", "less than or equal to 1000"),
    ("difflora", "training: {face_dropout: 0.8, image_dropout: 0.4}", "training", "between 0 and 1 together"),
    ("difflora", "sampling: {steps: 0}", "sampling.steps", AT_LEAST_1),
    ("difflora", "sampling: {steps: 1001}", "sampling.steps", "less than or equal to 1000"),
    ("difflora", "sampling: {temperature: 3}", "sampling.temperature", "less than or equal to 2"),
    ("difflora", "sampling: {latent_scale: 1e37}", "sampling.latent_scale", "less than or equal to 100"),
    ("difflora", "sampling: {guidance_scale: -1}", "sampling.guidance_scale", "greater than or equal to 0"),
    ("finetune", "images_per_person: 0", "images_per_person", AT_LEAST_1),
    ("finetune", "references: 0", "references", AT_LEAST_1),
    ("finetune", "lae: {people: 0}", "lae.people", AT_LEAST_1),
    ("finetune", "denoiser: {max_rollout_steps: 1001}", "denoiser.max_rollout_steps", "less than or equal to 1000"),
    ("finetune", "denoiser: {latent_loss_weight: -1}", "denoiser.latent_loss_weight", "greater than or equal to 0"),
    ("dataset", "dreambooth: {people: -1}", "dreambooth.people", AT_LEAST_1),
    ("dataset", "dreambooth: {images_per_person: 0}", "dreambooth.images_per_person", AT_LEAST_1),
    ("dataset", "dreambooth: {rank: 0}", "dreambooth.rank", AT_LEAST_1),
    ("dataset", "dreambooth: {learning_rate: -0.1}", "dreambooth.learning_rate", "greater than 0"),
    ("dataset", "preprocess: {size: 8}", "preprocess.size", "greater than or equal to 64"),
    ("dataset", "preprocess: {size: 7}", "preprocess.size", "multiple of 8"),
    ("dataset", "preprocess: {margin: -1}", "preprocess.margin", "greater than or equal to 0"),
    ("dataset", "verify: {steps: -1}", "verify.steps", AT_LEAST_1),
    ("dataset", "filter: {max_yaw: -5}", "filter.max_yaw", "greater than or equal to 0"),
    ("dataset", "filter: {min_similarity: 1.5}", "filter.min_similarity", "less than or equal to 1"),
    ("dataset", "pack: {validation: 2}", "pack.validation", "less than or equal to 1"),
    ("dataset", "pack: {people_per_shard: 0}", "pack.people_per_shard", AT_LEAST_1),
    ("dataset", "generate: {style_strength: 100}", "generate.style_strength", "less than 100"),
    # NaN and infinity
    ("lae", "training: {noise: .nan}", "training.noise", "finite number"),
    ("lae", "training: {loop: {steps: 1, learning_rate: .inf}}", "training.loop.learning_rate", "finite number"),
    ("difflora", "training: {embedding_noise: .nan}", "training.embedding_noise", "finite number"),
    ("difflora", "sampling: {latent_scale: .nan}", "sampling.latent_scale", "finite number"),
    ("finetune", "in_memory_gb: .inf", "in_memory_gb", "finite number"),
    ("dataset", "filter: {min_sharpness: .nan}", "filter.min_sharpness", "finite number"),
    # Choices
    ("lae", "lae: {kind: rnn}", "lae.kind", "found 'rnn'"),
    ("lae", "lae: {scale: none}", "lae.scale", "found 'none'"),
    ("lae", "training: {evaluation: {monitor: loss}}", "training.evaluation.monitor", "found 'loss'"),
    (
        "lae",
        "training: {loop: {steps: 1, learning_rate: 0.1, mixed_precision: fp8}}",
        "training.loop.mixed_precision",
        "found 'fp8'",
    ),
    ("difflora", "mif: {mode: both}", "mif.mode", "found 'both'"),
    ("difflora", "sampling: {scheduler: euler}", "sampling.scheduler", "found 'euler'"),
    ("difflora", "training: {objective: guess}", "training.objective", "found 'guess'"),
    ("dataset", "collect: {source: videos}", "collect.source", "found 'videos'"),
    ("dataset", "dreambooth: {dtype: fp8}", "dreambooth.dtype", "found 'fp8'"),
    # Other types
    ("lae", "training: {batch: '8'}", "training.batch", "valid integer, found '8'"),
    ("lae", "training: {batch: 8.5}", "training.batch", "valid integer, found 8.5"),
    ("lae", "training: {batch: true}", "training.batch", "valid integer, found True"),
    ("lae", "training: {batch: null}", "training.batch", "valid integer, found None"),
    ("lae", "training: 3", "training", "should be an object, found 3"),
    ("lae", "stores: store", "stores", "in line 1 and again in line 3"),
    ("difflora", "embeddings: [c]", "embeddings", "in line 5 and again in line 6"),
    ("dataset", "generate: {enabled: 1}", "generate.enabled", "valid boolean, found 1"),
    ("dataset", "generate: {enabled: yes}", "generate.enabled", "valid boolean, found 'yes'"),
    # Unknown and missing
    ("lae", "learning_rate: 1", "learning_rate", "unknown setting 'learning_rate'; there are"),
    ("lae", "training: {rounds: 3}", "training.rounds", "unknown setting 'rounds'"),
    ("lae", "lae: {depth: 3}", "lae.depth", "unknown setting 'depth'"),
    ("difflora", "pictures: {}", "pictures", "unknown setting 'pictures'"),
    ("dataset", "dreambooth: {rows: 3}", "dreambooth.rows", "unknown setting 'rows'"),
    # What belongs together
    ("lae", "training: {evaluation: {monitor: teacher_recovery}}", "", "needs the section `diffusion_loss_check`"),
    ("difflora", "training: {evaluation: {monitor: teacher_recovery}}", "", "needs the section `diffusion_loss_check`"),
    (
        "lae",
        "training: {evaluation: {monitor: loss_reduction}}",
        "",
        "not measured here: expected r2 or delta_w_cosine",
    ),
    ("difflora", "training: {evaluation: {monitor: loss_reduction}}", "", "not measured here: expected r2 or"),
    ("finetune", "lae: {evaluation: {interval: 50}}", "", "r2, which is not measured here: expected teacher_recovery"),
    ("finetune", "denoiser: {evaluation: {interval: 50}}", "", "r2, which is not measured here"),
    ("joint", "training: {evaluation: {interval: 50}}", "", "r2, which is not measured here: expected loss_reduction"),
    ("lae", "diffusion_loss_check: {dataset: d.yaml, every: 0}", "diffusion_loss_check.every", AT_LEAST_1),
    ("lae", "diffusion_loss_check: {}", "diffusion_loss_check.dataset", "is missing"),
    (
        "lae",
        "training: {loop: {steps: 50, learning_rate: 0.1}}",
        "training.loop",
        "warmup is 100, longer than the 50 steps: the learning rate would never reach its peak",
    ),
    # Empty
    ("lae", "layout: {unet: ''}", "layout.unet", "found '', expected something, or no such line"),
    ("difflora", "diffusion_loss_check: {dataset: ' '}", "diffusion_loss_check.dataset", "found ' '"),
    ("joint", "stores: ['']", "stores.0", "found ''"),
    ("dataset", "faces: {root: ''}", "faces.root", "found ''"),
    ("dataset", "faces: {pack: ''}", "faces.pack", "found ''"),
    ("dataset", "preprocess: {class_word: ' '}", "preprocess.class_word", "found ' '"),
    # YAML
    ("lae", "output: elsewhere", "", "the key 'output' stands in line 2 and again in line 3"),
    ("lae", "training: {batch: 3, batch: 4}", "", "the key 'batch' stands in line 3 and again in line 3"),
    ("lae", "training: {batch: 3", "", "is not valid YAML"),
    ("lae", "a: b: c", "", "is not valid YAML"),
    ("lae", "lae: !!python/object/apply:os.system ['true']", "", "is not valid YAML"),
    ("lae", "\ttraining: {}", "", "is not valid YAML"),
]


@pytest.mark.parametrize(
    ("kind", "text", "place", "message"), CASES, ids=[f"{kind}-{text}" for kind, text, *_ in CASES]
)
def test_a_wrong_setting_is_refused(tmp_path, kind, text, place, message):
    settings, rest = KINDS[kind]
    path = tmp_path / "settings.yaml"
    path.write_text(rest + text + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r".") as caught:
        read_settings(settings, path)
    error = str(caught.value)
    assert str(path) in error
    assert place in error
    assert message in error


@pytest.mark.parametrize("kind", KINDS)
def test_the_rest_of_the_tables_files_is_right(tmp_path, kind):
    settings, rest = KINDS[kind]
    path = tmp_path / "settings.yaml"
    path.write_text(rest, encoding="utf-8")
    assert isinstance(read_settings(settings, path), settings)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds a NoneType, expected settings by name"),
        (b"- a\n- b\n", "holds a list, expected settings by name"),
        (b"just text", "holds a str, expected settings by name"),
        ("output: Zoë".encode("utf-16"), r"settings\.yaml is not in UTF-8 \(byte 0\): save it as UTF-8"),
        ("output: Zoë".encode("latin-1"), r"settings\.yaml is not in UTF-8 \(byte 10\): save it as UTF-8"),
        (b"a: \x00", "is not valid YAML"),
    ],
    ids=["empty", "list", "text", "UTF-16", "Latin-1", "zero byte"],
)
def test_a_file_that_is_no_settings_is_refused(tmp_path, content, message):
    path = tmp_path / "settings.yaml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_settings(LAESettings, path)


@pytest.mark.parametrize("missing", ["stores", "output"])
def test_a_missing_setting_is_named(tmp_path, missing):
    path = tmp_path / "settings.yaml"
    path.write_text("\n".join(line for line in LAE.splitlines() if missing not in line) + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match=f"{missing} is missing"):
        read_settings(LAESettings, path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(FileNotFoundError, match="there is no configuration file"):
            read_settings(LAESettings, path)


def sections(kind):
    """A dataclass and all that are inside of it."""
    yield kind
    for hint in get_type_hints(kind).values():
        for inner in (hint, *get_args(hint)):
            if is_dataclass(inner):
                yield from sections(inner)


@pytest.mark.parametrize("kind", KINDS)
def test_every_number_has_a_range(kind):
    """Also those that are added: the file that names one outside of it is refused by its field."""
    found = {section: number_fields(section) for section in sections(KINDS[kind][0])}
    assert sum(map(len, found.values())) > 5
    without = [
        f"{section.__name__}.{name}" for section, all_ in found.items() for name, (_, b) in all_.items() if not b
    ]
    assert without == []
