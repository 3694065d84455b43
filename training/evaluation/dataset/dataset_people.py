"""Who of a recipe's dataset is evaluated: people of a split that no trainer has seen, with images that it collected."""

from training.lora_dataset.config import DatasetConfig, load_config
from training.lora_dataset.stages.generate import collected_images
from training.lora_dataset.stages.preprocess import chosen_images
from training.people.dataset_splits import people_of_split

from ..people_folders import EvaluatedPerson
from ..settings import EvaluationSettings


def dataset_people(settings: EvaluationSettings) -> list[EvaluatedPerson]:
    """List the people of the split with their images, which are not opened.

    Raises:
        FileNotFoundError: There is no such dataset.
        ValueError: Nobody is in the split, or somebody has too few images.
    """
    assert settings.dataset is not None  # the settings name a folder of people, or a dataset
    config = load_config(settings.dataset)
    people = people_of_split(config, settings.split)[: settings.max_people]
    return [read_person(config, person, settings.references) for person in people]


def read_person(config: DatasetConfig, person: str, count: int) -> EvaluatedPerson:
    """Choose a person's references, the first `count`, and images that no method sees.

    Where PhotoMaker generates the training images, all collected images are new to a teacher: those after the
    references are the others. Otherwise a teacher was trained on the collected images but for the last
    `preprocess.held_out`, which are the others then, with teachers and without: reports of recipes of both kinds are
    comparable. Generated images are never used, since likeness to them is likeness to PhotoMaker's idea of the person.

    Raises:
        ValueError: There is no reference.
    """
    if config.generate.enabled:
        images = [config.stage("collect") / person / name for name in collected_images(config, person)]
        return EvaluatedPerson(person, tuple(images[:count]), tuple(images[count:]))
    images = [config.workspace / image["file"] for image in chosen_images(config, person)[0]]
    seen = max(0, len(images) - config.preprocess.held_out)
    if not seen:
        raise ValueError(
            f"{person} has {len(images)} images in {config.workspace}, of which preprocess.held_out keeps "
            f"{config.preprocess.held_out}: no reference is left"
        )
    return EvaluatedPerson(person, tuple(images[: min(seen, count)]), tuple(images[seen:]))
