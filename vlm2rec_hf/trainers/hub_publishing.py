"""Trainers that save what a stranger needs to load the model, and publish it through `push`."""

from __future__ import annotations

import copy
import json
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers.dynamic_module_utils import custom_object_save

from ..hub.card_marks import CARD_FILE, is_blank_form, is_ours
from ..modeling.families_vlm2rec import keep_family
from .training_facts import adapter_facts, library_versions, resolved_arguments, write_training_facts

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)


class PublishesToHub:
    """Mixin before `transformers.Trainer` for trainers of `PreTrainedModel`s with a card.

    A saved folder holds, beside the weights, `training.json` (what the card says) and, where the weights are an
    adapter, the `config.json` and code that make `AutoModel.from_pretrained` find base and adapter in one call.
    """

    args: Any
    state: Any
    model: Any
    trained: Any
    """The model being trained, without PEFT's and accelerate's wrappers."""
    _method: str
    _seconds = 0.0
    _weights_of_step: int | None = None
    warm_up: dict[str, Any] | None = None
    """Settings of a warm-up that came before, for `training.json`; set by whoever did it."""
    _started_from: tuple[str | None, str | None] | None = None

    def training_facts(self) -> dict[str, Any]:
        """What `training.json` holds; subclasses add their objective and dataset."""
        base, commit = self._started_from or base_of(self.trained)
        return {
            "base_model": base,
            "base_model_revision": commit,
            "base_model_license": None,
            "images": _images_of(self.trained.config),
            "method": self._method,
            "arguments": resolved_arguments(self.args),
            "peft": adapter_facts(self.model),
            "steps": self.state.global_step,
            "weights_of_step": self._weights_of_step or self.state.global_step,
            "seed": self.args.seed,
            "seconds": round(self._seconds, 1),
            "versions": library_versions(),
            "warm_up": self.warm_up,
            **({"processes": self.args.world_size} if self.args.world_size > 1 else {}),
        }

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train; see `transformers.Trainer.train`. The time spent goes into `training.json`."""
        start = time.perf_counter()
        self._started_from = self._started_from or base_of(self.trained)
        try:
            result = super().train(*args, **kwargs)  # type: ignore[misc]
            if self.args.load_best_model_at_end and self.state.best_model_checkpoint:
                # Not `best_global_step`: the best evaluation may lie between two checkpoints.
                self._weights_of_step = int(Path(self.state.best_model_checkpoint).name.rpartition("-")[2])
            return result
        finally:
            self._seconds += time.perf_counter() - start

    def create_model_card(self, *args: Any, license: str | None = None, **kwargs: Any) -> None:
        """Write README.md into `args.output_dir` from what the folder holds; one that a person wrote is kept.

        Args:
            args: ignored; for the base class's signature.
            license: of the weights; that of the base model by default.
            kwargs: ignored; for the base class's signature.
        """
        from ..hub_cards.model_card import write_model_card

        folder = Path(self.args.output_dir)
        present = folder / CARD_FILE
        if self.args.should_save and (not present.is_file() or is_ours(present.read_text(encoding="utf-8"))):
            write_model_card(folder, self.args.hub_model_id, license=license)

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> CommitInfo | None:
        """Save the model to `args.output_dir` and publish it (as `push` does): model, processor and card.

        Args:
            commit_message: of the commit.
            blocking: must stay True: the published copy is loaded back before this returns.
            token: by default `args.hub_token`, else the one of `hf auth login`.
            revision: must stay None: versions are named by `tag`.
            private: whether a new repo is private; `args.hub_private_repo` by default.
            kwargs: `tag`, `license`, `card` and `verify` of `push`; others as the base class has them.

        Returns:
            The commit, on the main process; `None` elsewhere.

        Raises:
            ValueError: `hub_model_id` is no `owner/name`, or what `push` raises.
        """
        from huggingface_hub import CommitInfo

        if not blocking or revision is not None:
            raise ValueError(
                f"`blocking` must be True and `revision` None, got {blocking!r} and {revision!r}: a publication is "
                "one commit on main that is checked before it gets its `tag`."
            )
        self.save_model(self.args.output_dir, _internal_call=True)  # type: ignore[attr-defined]
        if not self.is_world_process_zero():  # type: ignore[attr-defined]
            return None
        options = {name: kwargs[name] for name in ("tag", "license", "card", "verify") if name in kwargs}
        done = self._publish(Path(self.args.output_dir), commit_message, token, private, **options)
        return CommitInfo(commit_url=done.url, commit_message=str(commit_message), commit_description="", oid=done.oid)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Publish a checkpoint's model while training goes on, for `hub_strategy` other than "end"."""
        if self.args.hub_strategy != "end" and self.is_world_process_zero():  # type: ignore[attr-defined]
            message = f"Training in progress, step {self.state.global_step}"
            try:
                self._publish(Path(checkpoint_folder), message, None, None, verify=False)
            except (ValueError, ConnectionError) as error:
                # The checkpoint lies on the disk and training must not die of the network; the last push does raise.
                logger.warning("Step %d was not published, training goes on: %s", self.state.global_step, error)

    def _publish(
        self, folder: Path, message: str | None, token: str | None, private: bool | None, **options: Any
    ) -> Any:
        from ..hub_cards.publish import publish_model

        where = self.args.hub_model_id
        if not where or "/" not in where:
            raise ValueError(f"`hub_model_id` must be 'owner/name', got {where!r}; set it in the training arguments.")
        return publish_model(
            folder,
            where,
            message=message,
            token=token or self.args.hub_token,
            private=self.args.hub_private_repo if private is None else private,
            **options,
        )

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        folder = Path(output_dir or self.args.output_dir)
        is_adapter = adapter_facts(self.model) is not None
        if self.args.should_save:
            _set_aside(folder, ("model*.safetensors*",) if is_adapter else ("adapter_*",))
        super()._save(output_dir, state_dict)  # type: ignore[misc]
        if not self.args.should_save:
            return
        if is_adapter:
            _drop_peft_template(folder)
            save_adapter_config(self.trained, folder)
        write_training_facts(folder, self.training_facts())


def _images_of(config: Any) -> dict[str, Any]:
    """Where the images of a backbone of parts come from; empty for others, whose base says it."""
    parts = getattr(getattr(config, "vlm_config", None), "parts_options", None)
    return {} if parts is None else parts()


def base_of(model: PreTrainedModel) -> tuple[str | None, str | None]:
    """Hub id and commit of what a model was loaded from; `(None, None)` for a folder or a model built from config."""
    where, commit = getattr(model, "loaded_from", None) or (None, None)
    return (where, commit) if commit is not None else (None, None)


def save_adapter_config(model: PreTrainedModel, folder: Path) -> None:
    """Write the `config.json` (and the code it maps to) that makes a folder with an adapter loadable in one call."""
    base, commit = base_of(model)
    config = copy.deepcopy(model.config)
    config.base_model, config.base_model_revision = base, commit
    if model.is_remote_code():
        custom_object_save(model, str(folder), config=config)  # type: ignore[arg-type]
        keep_family(folder, model.family)  # type: ignore[arg-type]
    config.save_pretrained(folder)
    _name_base(folder, (getattr(model, "loaded_from", None) or (None,))[0])


def _name_base(folder: Path, where: str | None) -> None:
    """Set the base in `adapter_config.json`: PEFT takes the model's name, whatever became of its weights."""
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = where
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    if where is None:
        logger.warning(
            "The adapter in %s sits on weights that lie nowhere: they were built from a configuration, or changed "
            "after loading. It cannot be loaded; merge it (`merge_adapters`) and save the whole model.", folder,
        )  # fmt: skip


def _set_aside(folder: Path, patterns: tuple[str, ...]) -> None:
    """Move weights of the other kind, left by an earlier run, out of the way: loaders would take them for new."""
    superseded = sorted(path for pattern in patterns for path in folder.glob(pattern))
    if not superseded:
        return
    number = 1
    while (aside := folder / f"superseded-{number}").exists():
        number += 1
    aside.mkdir()
    for path in superseded:
        path.rename(aside / path.name)
    logger.warning("%s of an earlier run moved to %s.", ", ".join(path.name for path in superseded), aside)


def _drop_peft_template(folder: Path) -> None:
    """Take away the form that PEFT writes as README.md, so that nobody mistakes it for a card."""
    card = folder / CARD_FILE
    if card.is_file() and is_blank_form(card.read_text(encoding="utf-8")):
        card.unlink()
